"""The offer of ``full``, and its advice."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Finding, Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Preference, Text
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.options import checks

RATE_TOO_HIGH = 1e-4


def build(options: FullOptions) -> Technique:
    """Make the technique; torch is imported here."""
    from tunesmith_plugins.techniques.full.technique import Full

    return Full(options)


FULL = TechniqueOffer(
    name="full",
    summary="supervised fine-tuning of every weight",
    config=FullOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Preference, Text}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(),
    data_parallel=True,
    estimate=techniques.full,
    economies=techniques.economies,
)


def review(plan: Plan) -> Sequence[Finding]:
    """A rate that adapters want moves a whole model too far."""
    options = plan.technique.config
    if plan.technique.offer is not FULL or not isinstance(options, FullOptions):
        return []
    found = checks.of_optimizer(options, plan.run.device)
    if options.learning_rate < RATE_TOO_HIGH:
        return found
    message = (
        f"{options.learning_rate:g} is high for full fine-tuning, which usually takes about 2e-5; "
        "adapters take about ten times that"
    )
    return [*found, Finding(level="warning", where="technique.learning_rate", message=message)]
