"""Options of the three stages of RLHF; torch is not imported here, so that plans stay light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tunesmith.options import Options, from_table
from tunesmith_torch.options.policy import PolicyLoopOptions
from tunesmith_torch.options.preference import PolicyOptions, RewardOptions

SKIP = (
    "Do not train this stage: take what `from` names as its result; without `from`, do without it."
)


class SupervisedStage(PolicyOptions):
    """``[technique.supervised]``: learn from demonstrations."""

    CUTS: ClassVar[bool] = True
    FULL_RATE: ClassVar[float] = 2e-5

    skip: bool = Field(False, description=SKIP)
    learning_rate: float = Field(
        2e-4, gt=0, le=1, description="Peak learning rate. Unset: 2e-4, for all weights 2e-5."
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, table: Any) -> Any:
        return usual_rate(table, cls.FULL_RATE)


class RewardStage(RewardOptions):
    """``[technique.reward]``: learn what people prefer."""

    FULL_RATE: ClassVar[float] = 1e-5

    skip: bool = Field(False, description=SKIP)
    learning_rate: float = Field(
        1e-4, gt=0, le=1, description="Peak learning rate. Unset: 1e-4, for all weights 1e-5."
    )
    accept_weak: bool = Field(
        False,
        description=(
            "Train the policy even against a reward model that does not beat chance on held-out "
            "pairs, or that judges by length. The report says so."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, table: Any) -> Any:
        return usual_rate(table, cls.FULL_RATE)


class RewardPart(Options):
    """One of the rewards that are added up: the reward model, or a Python function."""

    weight: float = Field(default=1.0, description="What this reward is multiplied with.")
    function: str | None = Field(
        default=None,
        description=(
            "A Python function `file.py:name` that takes a prompt and an answer, both text, and "
            "gives a number. Unset, and no plugin either: the reward model."
        ),
        json_schema_extra={"path": True},
    )
    plugin: str | None = Field(
        default=None, description="Such a function in an installed package: `package.module:name`."
    )

    @model_validator(mode="after")
    def _one(self) -> RewardPart:
        if self.function is not None and self.plugin is not None:
            raise ValueError("`function` and `plugin` cannot both be given")
        return self

    @property
    def is_model(self) -> bool:
        return self.function is None and self.plugin is None


class PolicyStage(PolicyLoopOptions):
    """``[technique.policy]``: learn from rewards, watched by something that is not learned from."""

    FULL_RATE: ClassVar[float] = 1e-6

    skip: bool = Field(False, description=SKIP)
    learning_rate: float = Field(
        2e-5, gt=0, le=1, description="Peak learning rate. Unset: 2e-5, for all weights 1e-6."
    )
    backend: Literal["native", "trl"] = Field(
        "native",
        description=(
            "What runs grpo and rloo: the loop of this package, or the trainers of TRL "
            "(pip install 'tunesmith[trl]')."
        ),
    )
    vllm: bool = Field(
        False, description="trl: draw answers with vLLM, in the same process and on the same GPU."
    )
    rewards: list[RewardPart] = Field(
        [RewardPart()],
        min_length=1,
        description=(
            "What is added up to the reward, each with a `weight`: the reward model, "
            '`function = "file.py:name"` or `plugin = "package.module:name"`.'
        ),
    )
    gold: str | None = Field(
        None,
        description=(
            "A Python function `file.py:name` that says how good an answer really is. It is never "
            "trained on. Unset: how often the policy finds the better answer of a held-out pair "
            "likelier, by the mean over its tokens."
        ),
        json_schema_extra={"path": True},
    )
    monitor_every: int = Field(
        10, ge=1, description="Steps between looks at held-out rows, gold beside the reward."
    )
    monitor_rows: int = Field(64, ge=2, description="Held-out rows that a look takes.")
    log_completions: int = Field(
        1, ge=0, le=100, description="Held-out answers that each look tells in full."
    )
    accept_divergence: bool = Field(
        False,
        description=(
            "End the run with exit code 0 even if the policy diverged and went back to its best "
            "checkpoint."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, table: Any) -> Any:
        return usual_rate(table, cls.FULL_RATE)

    @model_validator(mode="after")
    def _of_this_backend(self) -> PolicyStage:
        for problem in refused(self):
            raise ValueError(problem)
        return self

    @property
    def needs_model(self) -> bool:
        return any(part.is_model for part in self.rewards)


class RlhfOptions(Options):
    """Reinforcement learning from human feedback, in three stages."""

    supervised: SupervisedStage = Field(
        default_factory=lambda: from_table(SupervisedStage, {}),
        description="First stage: learn from demonstrations.",
    )
    reward: RewardStage = Field(
        default_factory=lambda: from_table(RewardStage, {}),
        description="Second stage: a model of what people prefer.",
    )
    policy: PolicyStage = Field(
        default_factory=lambda: from_table(PolicyStage, {}),
        description="Third stage: learn from rewards.",
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> RlhfOptions:
        if self.supervised.skip and self.reward.skip and self.policy.skip:
            raise ValueError("every stage is skipped, so there is nothing to train")
        gone = self.reward.skip and self.reward.start is None
        if gone and not self.policy.skip and self.policy.needs_model:
            raise ValueError(
                "`reward` is skipped and has no `from`, but the policy's `rewards` use its model"
            )
        return self


def usual_rate(table: Any, full: float) -> Any:
    """A table of options, with the learning rate that suits what moves where none is given."""
    if isinstance(table, dict) and table.get("adapt") == "full" and "learning_rate" not in table:
        return {**table, "learning_rate": full}
    return table


def refused(options: PolicyStage) -> Iterator[str]:
    """Why the options cannot be honoured by the backend that they ask for."""
    if options.backend != "trl":
        if options.vllm:
            yield '`vllm` is read by backend = "trl" only'
        return
    if options.algorithm == "ppo":
        yield 'backend = "trl" has grpo and rloo, and no ppo'
    if options.adapt != "lora":
        yield (
            f'backend = "trl" trains adapt = "lora" only, got "{options.adapt}": TRL rounds the '
            "adapters of a quantised base to bf16, and has no copy of a start whose weights all "
            "move as its reference"
        )
    if options.dropout > 0:
        yield 'backend = "trl" draws answers with dropout on, so `dropout` must be 0'
    if options.modules_to_save:
        yield 'backend = "trl" reads the untrained head, so `modules_to_save` must be empty'
    if options.kl_coef == 0 and options.max_kl > 0:
        yield (
            'backend = "trl" measures the divergence only where it has a price: with '
            "kl_coef = 0, `max_kl` must be 0 too"
        )
