"""Options of the technique, the splitter and the evaluator; this module does not import torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tunesmith.options import Options
from tunesmith_evidence.answers.generate import ComparedAnswerOptions
from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions
from tunesmith_torch.options.training import SupervisedOptions

UNSUPPORTED = ("dropout", "modules_to_save", "target_parameters", "use_dora")
"""Options of adapters that a user's adapter cannot have."""


class UserOptions(Options):
    """The ``users`` table: how each user's own adapter is trained."""

    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="Peak learning rate.")
    epochs: float = Field(default=10.0, gt=0, le=1000, description="Passes over a user's rows.")
    batch_size: int = Field(default=8, ge=1, le=65536, description="Rows per optimizer step.")
    min_rows: int = Field(
        default=4, ge=1, description="Users with fewer training rows keep the shared adapter."
    )
    pull: float = Field(
        default=0.1,
        ge=0,
        description=(
            "Strength of the pull towards the shared adapter. Each step shrinks the difference by "
            "this value times the learning rate."
        ),
    )
    patience: int = Field(
        default=2,
        ge=1,
        description=(
            "Stop a user's training after this many epochs without a lower loss on the user's "
            "validation rows. Users without validation rows train for all epochs."
        ),
    )
    together: bool = Field(
        default=True,
        description=(
            "Train several users in one pass if this machine computes each row independently of "
            "the others. The results have the same bits as with `false`, in less time."
        ),
    )


def _small_adapter() -> AdapterOptions:
    return AdapterOptions(rank=8, alpha=16, target_modules=["q_proj", "v_proj"])


class PersonalOptions(SupervisedOptions):
    """Options of ``personal``: those of the shared adapter, and those of the users' adapters."""

    DEFAULT_RATE: ClassVar[float] = 2e-4
    STARTS_FROM_BASE: ClassVar[bool] = True

    adapter: AdapterOptions = Field(
        default_factory=_small_adapter,
        description="The shared adapter, and every user's adapter, which starts as its copy.",
    )
    users: UserOptions = Field(default_factory=UserOptions, description="The users' adapters.")

    @property
    def adaptation(self) -> Adaptation:
        """LoRA adapters over an unquantized base model."""
        return Adaptation("lora", self.adapter)

    @model_validator(mode="after")
    def _check_adapter(self) -> Self:
        if found := next((name for name in UNSUPPORTED if getattr(self.adapter, name)), None):
            raise ValueError(f"`adapter.{found}` is not supported for users' adapters; remove it")
        return self


Share = Annotated[float, Field(ge=0, lt=1)]


class PerUserOptions(Options):
    """Options of ``per-user``."""

    validation_size: Share = Field(
        default=0.2, description="Share of each user's other rows that are validation rows."
    )


Baseline = Literal["shared", "shared-retrieval", "base-retrieval", "classifier"]


class EvidenceOptions(Options):
    """Options of the evaluator ``user-gain``."""

    baselines: list[Baseline] = Field(
        default=["shared", "shared-retrieval", "base-retrieval", "classifier"],
        min_length=1,
        description=(
            "What a user's adapter must beat: the shared adapter; the shared adapter or the base "
            "model with the user's most similar rows in the prompt; a classifier over the base "
            "model's hidden states, trained on the user's rows."
        ),
    )
    k: int = Field(default=8, ge=1, le=64, description="Number of the user's rows in a prompt.")
    probability: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description=(
            "A user gets the own adapter only if the probability that it beats the best baseline "
            "is at least this high."
        ),
    )


class UserMatchOptions(ComparedAnswerOptions):
    """Options of ``user-exact-match``: how to compare answers, and their maximum length."""
