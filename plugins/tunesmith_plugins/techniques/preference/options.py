"""Options of ``preference``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from tunesmith_torch.options.preference import PairOptions, PreferenceLossOptions


class PreferenceOptions(PairOptions):
    """Options of preference optimization (DPO and related losses)."""

    EARLIER: ClassVar[Mapping[str, str]] = {
        key: f"loss.{key}" for key in PreferenceLossOptions.model_fields if key != "type"
    }

    learning_rate: float = Field(
        default=2e-5,
        gt=0,
        le=1,
        description="Peak learning rate; about a tenth of the rate for supervised LoRA.",
    )
    loss: PreferenceLossOptions = Field(
        default_factory=PreferenceLossOptions, description="The loss over a pair."
    )

    @field_validator("loss", mode="before")
    @classmethod
    def _refuse_name(cls, value: Any) -> Any:
        """Explain the table that has taken the place of an earlier key of the same name."""
        if isinstance(value, str):
            raise ValueError(f'is a table; write `loss.type = "{value}"`')
        return value
