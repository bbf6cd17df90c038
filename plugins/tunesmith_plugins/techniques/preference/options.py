"""Options of ``preference``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from tunesmith_torch.options.preference import PairOptions, PreferenceLossOptions


class PreferenceOptions(PairOptions):
    """Options of preference optimization (DPO and related losses)."""

    EARLIER: ClassVar[Mapping[str, str]] = {
        key: f"loss.{key}" for key in PreferenceLossOptions.model_fields if key != "type"
    }

    EARLIER_WORDS: ClassVar[Mapping[str, str]] = {
        **PairOptions.EARLIER_WORDS,
        "loss": "loss.type",
    }

    USES_DROPOUT: ClassVar[bool] = False

    learning_rate: float = Field(
        default=2e-5,
        gt=0,
        le=1,
        description="Peak learning rate; about a tenth of the rate for supervised LoRA.",
    )
    loss: PreferenceLossOptions = Field(
        default_factory=PreferenceLossOptions,
        description="The loss over pairs or labeled answers.",
    )

    @field_validator("loss", mode="before")
    @classmethod
    def refuse_name_of_loss(cls, value: Any, info: ValidationInfo) -> Any:
        """Explain the table that has taken the place of the name of a loss."""
        return cls.refuse_earlier_word(value, info)
