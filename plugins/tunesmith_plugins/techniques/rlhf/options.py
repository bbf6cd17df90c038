"""Options of the three stages of ``rlhf``."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from tunesmith.options import Options, from_table
from tunesmith_torch.options.chosen_adaptation import ChosenAdaptationOptions
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.options.preference import PairOptions, RewardLossOptions
from tunesmith_torch.options.training import SupervisedOptions

SKIP_HELP = (
    "Do not train this stage; use the artifact in `from` as its result, or none if that is unset."
)


class SupervisedStage(ChosenAdaptationOptions, SupervisedOptions):
    """``[technique.supervised]``: train on demonstrations (supervised fine-tuning)."""

    FULL_LEARNING_RATE: ClassVar[float | None] = 2e-5

    skip: bool = Field(default=False, description=SKIP_HELP)
    learning_rate: float = Field(
        default=2e-4,
        gt=0,
        le=1,
        description='Peak learning rate. Unset: 2e-4, with adapt = "full" 2e-5.',
    )


class GateOptions(Options):
    """``[technique.reward.gate]``: the check of the reward model before the policy is trained."""

    accept_weak: bool = Field(
        default=False,
        description=(
            "Train the policy even with a reward model that is no better than chance on "
            "validation pairs, or whose rewards depend on length. The report contains a warning."
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
        description='Peak learning rate. Unset: 1e-4, with adapt = "full" 1e-5.',
    )
    loss: RewardLossOptions = Field(
        default_factory=RewardLossOptions, description="The loss over a pair."
    )
    gate: GateOptions = Field(
        default_factory=GateOptions, description="The check before the policy is trained."
    )


class PolicyStage(PolicyOptions):
    """``[technique.policy]``: train on rewards; a gold reward monitors the policy independently."""

    FULL_LEARNING_RATE: ClassVar[float | None] = 1e-6

    skip: bool = Field(default=False, description=SKIP_HELP)
    learning_rate: float = Field(
        default=2e-5,
        gt=0,
        le=1,
        description='Peak learning rate. Unset: 2e-5, with adapt = "full" 1e-6.',
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_backend(cls, table: Any) -> Any:
        """Explain where the keys of TRL's trainers have gone."""
        for key in ("backend", "vllm"):
            if isinstance(table, dict) and key in table:
                raise ValueError(
                    f"`{key}` is gone: TRL's trainers are the techniques trl-grpo and trl-rloo, "
                    "which the distribution contrib/tunesmith-trl adds"
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
            raise ValueError("every stage is skipped, so there is nothing to train")
        no_reward_model = self.reward.skip and self.reward.initial_model is None
        if no_reward_model and not self.policy.skip and self.policy.needs_reward_model:
            raise ValueError(
                "`reward` is skipped and has no `from`, but the policy's `rewards` use its model"
            )
        return self
