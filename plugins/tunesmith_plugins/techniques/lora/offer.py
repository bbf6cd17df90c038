"""The offer of ``lora``, and its advice."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Finding, Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Preference, Text
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.options import checks
from tunesmith_torch.options.training import LoraOptions

RATE_TOO_LOW = 5e-5


def build(options: LoraOptions) -> Technique:
    """Make the technique; torch is imported here."""
    from tunesmith_plugins.techniques.lora.technique import Lora

    return Lora(options)


LORA = TechniqueOffer(
    name="lora",
    summary="low-rank adapters beside frozen weights; the artifact is a PEFT adapter",
    config=LoraOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Preference, Text}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(base_weights_unchanged=True, mergeable=True),
    data_parallel=True,
    estimate=techniques.lora,
    economies=techniques.adapter_economies,
)


def review(plan: Plan) -> Sequence[Finding]:
    """A rate that full fine-tuning wants leaves adapters where they began."""
    options = plan.technique.config
    if plan.technique.offer is not LORA or not isinstance(options, LoraOptions):
        return []
    found = checks.of_optimizer(options, plan.run.device)
    if options.learning_rate > RATE_TOO_LOW:
        return found
    message = (
        f"{options.learning_rate:g} is low for adapters, which usually take about 2e-4, "
        "ten times the rate of full fine-tuning"
    )
    return [*found, Finding(level="warning", where="technique.learning_rate", message=message)]
