"""Define the options of the ``rlhf`` technique and its three stages."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from tunesmith.options import Options, from_table
from tunesmith_torch.options.chosen_adaptation import ChosenAdaptationOptions
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.options.preference import PairOptions, RewardLossOptions
from tunesmith_torch.options.training import SupervisedOptions

SKIP_HELP = (
    "Skip this stage and use the model in `from` as its result. Without `from`, the stage "
    "has no result."
)


class SupervisedStage(ChosenAdaptationOptions, SupervisedOptions):
    """``[technique.supervised]``: train on demonstrations (supervised fine-tuning)."""

    FULL_LEARNING_RATE: ClassVar[float | None] = 2e-5

    skip: bool = Field(default=False, description=SKIP_HELP)
    learning_rate: float = Field(
        default=2e-4,
        gt=0,
        le=1,
        description='Peak learning rate. Unset: 2e-4, or 2e-5 with adapt = "full".',
    )


class GateOptions(Options):
    """``[technique.reward.gate]``: the check of the reward model before the policy is trained."""

    accept_weak: bool = Field(
        default=False,
        description=(
            "Train the policy even if the reward model is no better than chance on validation "
            "pairs, or if its rewards may depend on length alone. The report then contains a "
            "warning."
        ),
    )


class RewardStage(PairOptions):
    """``[technique.reward]``: train a reward model on preference pairs."""

    FULL_LEARNING_RATE: ClassVar[float | None] = 1e-5
    skip: bool = Field(default=False, description=SKIP_HELP)
    learning_rate: float = Field(
        default=1e-4,
        gt=0,
        le=1,
        description='Peak learning rate. Unset: 1e-4, or 1e-5 with adapt = "full".',
    )
    loss: RewardLossOptions = Field(
        default_factory=RewardLossOptions, description="The loss on a pair."
    )
    gate: GateOptions = Field(
        default_factory=GateOptions,
        description="The check of the reward model before the policy is trained.",
    )


class PolicyStage(PolicyOptions):
    """``[technique.policy]``: train a policy on rewards, monitored by a gold reward."""

    FULL_LEARNING_RATE: ClassVar[float | None] = 1e-6

    skip: bool = Field(default=False, description=SKIP_HELP)
    learning_rate: float = Field(
        default=2e-5,
        gt=0,
        le=1,
        description='Peak learning rate. Unset: 2e-5, or 1e-6 with adapt = "full".',
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_backend(cls, table: Any) -> Any:
        """Reject removed keys for TRL trainers, and name the techniques to use instead."""
        for key in ("backend", "vllm"):
            if isinstance(table, dict) and key in table:
                raise ValueError(
                    f"`{key}` was removed: to use TRL's trainers, install contrib/tunesmith-trl "
                    "and choose the technique trl-grpo or trl-rloo"
                )
        return table


class RlhfOptions(Options):
    """Reinforcement learning from human feedback, in three stages."""

    supervised: SupervisedStage = Field(
        default_factory=lambda: from_table(SupervisedStage, {}),
        description="First stage: supervised fine-tuning on demonstrations.",
    )
    reward: RewardStage = Field(
        default_factory=lambda: from_table(RewardStage, {}),
        description="Second stage: a reward model trained on preference pairs.",
    )
    policy: PolicyStage = Field(
        default_factory=lambda: from_table(PolicyStage, {}),
        description="Third stage: the policy, trained on rewards.",
    )

    @model_validator(mode="after")
    def _check_stages(self) -> RlhfOptions:
        if self.supervised.skip and self.reward.skip and self.policy.skip:
            raise ValueError("the run file skips all three stages, so there is nothing to train")
        no_reward_model = self.reward.skip and self.reward.initial_model is None
        if no_reward_model and not self.policy.skip and self.policy.needs_reward_model:
            raise ValueError(
                "`reward` is skipped, but `policy.rewards` uses the reward model: set "
                "`reward.from`, or use only reward functions"
            )
        return self
