"""The rewards that a technique trains on, read from its options.

They should not judge the result, because a policy learns to exploit the rewards that it is trained
on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from tunesmith_torch.compare.other_model import RewardOptions
from tunesmith_torch.options.policy import PolicyOptions

__all__ = ["TrainingRewards", "find_training_rewards"]


@dataclass(frozen=True)
class TrainingRewards:
    """The rewards that a policy is trained on, and the gold reward that only monitors it."""

    functions: tuple[str, ...]
    """Reward functions, as ``file.py:function`` or ``package.module:function``."""
    has_reward_model: bool
    model: str | None
    """Folder of the reward model, or of the model that it is trained from; None if not in the
    options."""
    gold: str | None
    """The gold reward function, which is never trained on; None if it is not set."""

    def includes(self, judge: RewardOptions) -> bool:
        """Return True if the judge is one of these rewards.

        A judge without a name is the run's own reward model.
        """
        name = judge.plugin or judge.reward
        if name is None:
            return self.has_reward_model
        return name in self.functions or self._is_the_model(Path(name))

    def _is_the_model(self, folder: Path) -> bool:
        if not (self.has_reward_model and self.model):
            return False
        model = Path(self.model).resolve()
        return folder.resolve() in (model, *model.parents)


def find_training_rewards(config: BaseModel) -> TrainingRewards | None:
    """Return the rewards in a technique's options; None if it does not train on rewards."""
    tables = [config, *(getattr(config, name) for name in type(config).model_fields)]
    policy = next((table for table in tables if isinstance(table, PolicyOptions)), None)
    if policy is None or getattr(policy, "skip", False):
        return None
    named = [term.function or term.plugin for term in policy.rewards]
    return TrainingRewards(
        functions=tuple(filter(None, named)),
        has_reward_model=policy.needs_reward_model,
        model=getattr(getattr(config, "reward", None), "initial_model", None),
        gold=policy.monitor.gold,
    )
