"""Review of runs with rewards: what is gained by choosing among samples, without training?"""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith_plugins.baselines.best_of_n.offer import NAME, TABLE, BestOfNOptions
from tunesmith_torch.compare.training_rewards import find_training_rewards


def review(plan: Plan) -> Iterator[Finding]:
    """Yield an error for the baseline without a reward, and a note for rewards without it."""
    use = plan.baseline_options.use
    configs = (baseline.config for baseline in plan.baselines if baseline.offer.name == NAME)
    config = next(configs, None)
    if isinstance(config, BestOfNOptions) and config.has_reward:
        return
    if use is not None:
        if NAME in use:
            message = "needs a reward by which the best answer is chosen"
            hint = "set `reward` or `plugin` in this table"
            yield Finding(level="error", where=TABLE, message=message, hint=hint)
        return
    rewards = find_training_rewards(plan.technique.config)
    if rewards is None:
        return
    function = next(iter(rewards.functions), None)
    named = f'"{function}"' if function else "the folder of a trained reward model"
    key = "reward" if function is None or ".py:" in function else "plugin"
    yield Finding(
        level="info",
        where="baselines",
        message="the policy is not compared with the best of four sampled answers by the reward, "
        "which needs no training",
        hint=f"add [{TABLE}] with {key} = {named}",
    )
