"""Offer the ``rlhf`` technique, and review run plans that use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.contracts import Finding, Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Preference
from tunesmith_plugins.techniques.rlhf import estimate
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_torch.runtime.environment import prepare_environment


def build(options: RlhfOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_plugins.techniques.rlhf.technique import Rlhf

    return Rlhf(options)


def find_initial_model(options: RlhfOptions) -> Path | None:
    """Return the supervised model of an earlier run, if this run does not train one."""
    from tunesmith_torch.models.initial_model import InitialModel

    stage = options.supervised
    initial = InitialModel.from_options(stage, "supervised") if stage.skip else None
    return None if initial is None else initial.path


RLHF = TechniqueOffer(
    needs_validation=True,
    name="rlhf",
    summary="supervised fine-tuning, then a checked reward model, then PPO, GRPO or RLOO",
    config=RlhfOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Preference}),
    trains_on=frozenset({"tools", "reasoning", "weights", "rejected"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(),
    data_parallel=True,
    accepts_additions=True,
    estimate=estimate.estimate,
    find_initial_model=find_initial_model,
    memory_savings=estimate.memory_savings,
)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Warn if a reward model may fail its check, and add a note if no gold reward is set."""
    options = plan.technique.config
    if plan.technique.offer is not RLHF or not isinstance(options, RlhfOptions):
        return []
    return list(_find_problems(options))


def _find_problems(options: RlhfOptions) -> Iterator[Finding]:
    policy = options.policy
    if options.reward.gate.accept_weak and not policy.skip:
        message = "a reward model that fails its check is used anyway; the report shows the failure"
        yield Finding(level="warning", where="technique.reward.gate.accept_weak", message=message)
    if not policy.skip and policy.monitor.gold is None:
        message = (
            "no gold reward is set, so the policy is monitored by how often it finds the chosen "
            "answer of a validation pair more likely; this is only a weak signal of "
            "over-optimization"
        )
        yield Finding(level="info", where="technique.policy.monitor.gold", message=message)
