"""Offer the ``full`` technique, and review run plans that use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.contracts import Finding, Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Preference, Text
from tunesmith_evidence.number_text import format_rate
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.options import checks
from tunesmith_torch.runtime.environment import prepare_environment

USUAL_LEARNING_RATE, USUAL_HIDDEN_SIZE = 2e-5, 2048
"""The usual learning rate, and the smallest hidden size for which it is usual.

Narrower models are trained with rates that grow as the width shrinks.
"""
HIGH_FACTOR = 5
"""Learning rates this many times the usual rate get a warning: they are usual for adapters."""


def build(options: FullOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_plugins.techniques.full.technique import FullFineTuning

    return FullFineTuning(options)


FULL = TechniqueOffer(
    name="full",
    summary="supervised fine-tuning of every weight",
    config=FullOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Preference, Text}),
    trains_on=frozenset({"tools", "reasoning", "weights"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(),
    data_parallel=True,
    accepts_additions=True,
    estimate=techniques.estimate_supervised,
    memory_savings=techniques.memory_savings,
)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the optimizer, and warn about a learning rate that is typical of adapters."""
    options = plan.technique.config
    if plan.technique.offer is not FULL or not isinstance(options, FullOptions):
        return []
    findings = checks.check_optimizer(options, plan.run.device)
    usual = _usual_learning_rate(plan.found_model.config)
    if options.learning_rate < HIGH_FACTOR * usual:
        return findings
    message = (
        f"{format_rate(options.learning_rate)} is high for full fine-tuning of this model, which "
        f"usually uses about {format_rate(usual)}; adapters use about ten times that"
    )
    return [*findings, Finding(level="warning", where="technique.learning_rate", message=message)]


def _usual_learning_rate(config: Mapping[str, Any]) -> float:
    """Return the usual learning rate for a model. If ``config`` is empty, assume a wide model."""
    text = config.get("text_config", config)
    hidden = int(text.get("hidden_size") or USUAL_HIDDEN_SIZE)
    return float(f"{USUAL_LEARNING_RATE * max(1, USUAL_HIDDEN_SIZE / hidden):.0e}")
