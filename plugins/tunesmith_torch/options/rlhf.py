"""Options of the three stages of RLHF; torch is not imported here, so plans stay light."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tunesmith.options import Options, from_table
from tunesmith_torch.options.policy import PolicyLoopOptions
from tunesmith_torch.options.preference import PolicyOptions, RewardOptions

SKIP_HELP = (
    "Do not train this stage; use the artifact in `from` as its result, or none if that is unset."
)


class SupervisedStage(PolicyOptions):
    """``[technique.supervised]``: train on demonstrations (supervised fine-tuning)."""

    CAN_TRUNCATE_PROMPTS: ClassVar[bool] = True
    FULL_LEARNING_RATE: ClassVar[float] = 2e-5

    skip: bool = Field(False, description=SKIP_HELP)
    learning_rate: float = Field(
        2e-4, gt=0, le=1, description='Peak learning rate. Unset: 2e-4, with adapt = "full" 2e-5.'
    )

    @model_validator(mode="before")
    @classmethod
    def _default_learning_rate(cls, table: Any) -> Any:
        return set_default_learning_rate(table, cls.FULL_LEARNING_RATE)


class RewardStage(RewardOptions):
    """``[technique.reward]``: train a reward model on preference pairs."""

    FULL_LEARNING_RATE: ClassVar[float] = 1e-5

    skip: bool = Field(False, description=SKIP_HELP)
    learning_rate: float = Field(
        1e-4, gt=0, le=1, description='Peak learning rate. Unset: 1e-4, with adapt = "full" 1e-5.'
    )
    accept_weak: bool = Field(
        False,
        description=(
            "Train the policy even with a reward model that is no better than chance on "
            "held-out pairs, or whose rewards depend on length. The report contains a warning."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _default_learning_rate(cls, table: Any) -> Any:
        return set_default_learning_rate(table, cls.FULL_LEARNING_RATE)


class RewardTerm(Options):
    """One term of the reward sum: the reward model, or a Python function."""

    weight: float = Field(default=1.0, description="Factor of this reward in the sum.")
    function: str | None = Field(
        default=None,
        description=(
            "A Python function `file.py:name` that takes a prompt and a completion, both "
            "text, and returns a number. If `plugin` is unset too: the reward model."
        ),
        json_schema_extra={"path": True},
    )
    plugin: str | None = Field(
        default=None, description="Such a function in an installed package: `package.module:name`."
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> RewardTerm:
        if self.function is not None and self.plugin is not None:
            raise ValueError("`function` and `plugin` cannot both be given")
        return self

    @property
    def is_reward_model(self) -> bool:
        """True for the reward model, False for a function."""
        return self.function is None and self.plugin is None


class PolicyStage(PolicyLoopOptions):
    """``[technique.policy]``: train on rewards; a gold reward monitors the policy independently."""

    EARLIER: ClassVar[Mapping[str, str]] = {
        "watch_every": "monitor_every",
        "watch_rows": "monitor_rows",
        "tell_samples": "log_completions",
    }

    FULL_LEARNING_RATE: ClassVar[float] = 1e-6

    skip: bool = Field(False, description=SKIP_HELP)
    learning_rate: float = Field(
        2e-5, gt=0, le=1, description='Peak learning rate. Unset: 2e-5, with adapt = "full" 1e-6.'
    )
    backend: Literal["native", "trl"] = Field(
        "native",
        description=(
            "Implementation of grpo and rloo: this package's own loop, or the trainers of "
            "TRL (pip install 'tunesmith[trl]')."
        ),
    )
    vllm: bool = Field(
        False,
        description="trl: generate completions with vLLM, in the same process and on the same GPU.",
    )
    rewards: list[RewardTerm] = Field(
        [RewardTerm()],
        min_length=1,
        description=(
            "Terms of the reward sum, each with a `weight`: the reward model, `function = "
            '"file.py:name"` or `plugin = "package.module:name"`.'
        ),
    )
    gold: str | None = Field(
        None,
        description=(
            "Gold reward: a Python function `file.py:name` that returns the true quality of "
            "a completion. It is never trained on. Unset: the fraction of held-out pairs "
            "whose better completion has the higher mean log-probability under the policy."
        ),
        json_schema_extra={"path": True},
    )
    monitor_every: int = Field(
        10,
        ge=1,
        description=(
            "Optimizer steps between evaluations of reward and gold reward on held-out rows."
        ),
    )
    monitor_rows: int = Field(64, ge=2, description="Held-out rows per evaluation.")
    log_completions: int = Field(
        1, ge=0, le=100, description="Held-out completions that each evaluation reports in full."
    )
    accept_divergence: bool = Field(
        False,
        description=(
            "End the run with exit code 0 even if the policy diverged and returned to its "
            "best checkpoint."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _default_learning_rate(cls, table: Any) -> Any:
        return set_default_learning_rate(table, cls.FULL_LEARNING_RATE)

    @model_validator(mode="after")
    def _check_backend(self) -> PolicyStage:
        for problem in find_backend_problems(self):
            raise ValueError(problem)
        return self

    @property
    def needs_reward_model(self) -> bool:
        """True if a term of the reward sum is the reward model."""
        return any(part.is_reward_model for part in self.rewards)


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


def set_default_learning_rate(table: Any, full_rate: float) -> Any:
    """Return the table with the learning rate for full training, unless it sets a rate itself."""
    if isinstance(table, dict) and table.get("adapt") == "full" and "learning_rate" not in table:
        return {**table, "learning_rate": full_rate}
    return table


def find_backend_problems(options: PolicyStage) -> Iterator[str]:
    """Yield the reasons why the requested backend does not support the options."""
    if options.backend != "trl":
        if options.vllm:
            yield '`vllm` is read by backend = "trl" only'
        return
    if options.algorithm == "ppo":
        yield 'backend = "trl" has grpo and rloo, but no ppo'
    if options.adapt != "lora":
        yield (
            f'backend = "trl" trains adapt = "lora" only, got "{options.adapt}": TRL rounds the '
            "adapters of a quantized base to bf16, and has no reference copy of an initial model "
            "whose weights are all trained"
        )
    if options.dropout > 0:
        yield 'backend = "trl" generates with dropout on, so `dropout` must be 0'
    if options.modules_to_save:
        yield 'backend = "trl" uses the untrained head, so `modules_to_save` must be empty'
    if options.kl_coef == 0 and options.max_kl > 0:
        yield (
            'backend = "trl" measures the KL divergence only if it is weighted: with '
            "kl_coef = 0, `max_kl` must be 0 too"
        )
