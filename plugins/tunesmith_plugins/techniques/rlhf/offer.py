"""The offer of ``rlhf``, and its advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding, Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Preference
from tunesmith_torch.memory_estimate import policies, techniques
from tunesmith_torch.options.rlhf import RlhfOptions
from tunesmith_torch.options.trl import lacking


def build(options: RlhfOptions) -> Technique:
    """Make the technique; torch is imported here."""
    from tunesmith_plugins.techniques.rlhf.technique import Rlhf

    return Rlhf(options)


RLHF = TechniqueOffer(
    name="rlhf",
    summary="demonstrations, a reward model, then PPO, GRPO or RLOO against it; a gate in between",
    config=RlhfOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Preference}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(),
    data_parallel=True,
    estimate=policies.rlhf,
    economies=techniques.stage_economies,
)


def review(plan: Plan) -> Sequence[Finding]:
    """Gates that are open, and rewards that nothing else watches."""
    options = plan.technique.config
    if plan.technique.offer is not RLHF or not isinstance(options, RlhfOptions):
        return []
    return list(_findings(options))


def _findings(options: RlhfOptions) -> Iterator[Finding]:
    policy = options.policy
    yield from lacking(policy)
    if options.reward.accept_weak and not policy.skip:
        message = "a reward model that fails its gate is used all the same; the report will say so"
        yield Finding(level="warning", where="technique.reward.accept_weak", message=message)
    if not policy.skip and policy.gold is None:
        message = (
            "no function says how good an answer really is; the policy is watched by how likely it "
            "finds the better answers of held-out pairs, which is a weak sign"
        )
        yield Finding(level="info", where="technique.policy.gold", message=message)
