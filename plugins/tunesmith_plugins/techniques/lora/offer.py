"""Offer the ``lora`` technique, and review run plans that use it."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Finding, Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Preference, Text
from tunesmith_evidence.number_text import format_rate
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.options import checks
from tunesmith_torch.runtime.environment import NO_DOCSTRINGS, has_docstrings, prepare_environment

LOW_LEARNING_RATE = 5e-5
"""Learning rates up to this one get a warning, because they are usual for full fine-tuning."""


def build(options: LoraOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_plugins.techniques.lora.technique import Lora

    return Lora(options)


LORA = TechniqueOffer(
    name="lora",
    summary="low-rank adapters on frozen base weights; the artifact is a PEFT adapter",
    config=LoraOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Preference, Text}),
    trains_on=frozenset({"tools", "reasoning", "weights"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(base_weights_unchanged=True),
    data_parallel=True,
    accepts_additions=True,
    estimate=techniques.estimate_supervised,
    memory_savings=techniques.memory_savings,
)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the optimizer, and warn about a learning rate that is typical of full fine-tuning.

    For every technique, also warn about option values that prevent a model from learning, and check
    the evaluator that chooses checkpoints.
    """
    options = plan.technique.config
    findings = []
    if not has_docstrings() and any("transformers" in n for n in plan.technique.offer.needs):
        findings.append(Finding(level="error", where="python", message=NO_DOCSTRINGS))
    if plan.additions:
        findings += checks.find_sharding_errors(options)
    findings += checks.find_unknown_evaluators(options, [e.id for e in plan.evaluators])
    return [*findings, *checks.find_inert_options(options), *_review_lora(plan)]


def _review_lora(plan: Plan) -> Sequence[Finding]:
    options = plan.technique.config
    if plan.technique.offer is not LORA or not isinstance(options, LoraOptions):
        return []
    findings = checks.check_optimizer(options, plan.run.device)
    if not checks.MIN_LEARNING_RATE <= options.learning_rate <= LOW_LEARNING_RATE:
        return findings
    message = (
        f"{format_rate(options.learning_rate)} is low for adapters, which usually use about 2e-4, "
        "ten times the rate of full fine-tuning"
    )
    return [*findings, Finding(level="warning", where="technique.learning_rate", message=message)]
