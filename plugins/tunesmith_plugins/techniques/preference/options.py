"""Define the options of the ``preference`` technique."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tunesmith_torch.options.preference import PairOptions, PreferenceLossOptions


class PreferenceOptions(PairOptions):
    """Options of preference optimization with DPO and related losses."""

    USES_DROPOUT: ClassVar[bool] = False

    learning_rate: float = Field(
        default=2e-5,
        gt=0,
        le=1,
        description="Peak learning rate, about a tenth of the rate for supervised LoRA.",
    )
    loss: PreferenceLossOptions = Field(
        default_factory=PreferenceLossOptions,
        description="The loss, computed on pairs or on labeled answers.",
    )
