"""Options of the exporter ``lora``."""

from __future__ import annotations

from pydantic import Field, model_validator

from tunesmith.options import Options


class LoraExportOptions(Options):
    """Options of the exporter ``lora``: the rank, or the error that decides it."""

    rank: int | None = Field(
        None, ge=1, le=1024, description="Rank of the LoRA adapter in every module."
    )
    error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=(
            "Largest share of each update's squared norm that may be lost; the rank then differs "
            "between modules. Unset, with `rank` unset: 0.001."
        ),
    )

    @model_validator(mode="after")
    def _choose_one(self) -> LoraExportOptions:
        if self.rank is not None and self.error is not None:
            raise ValueError("set `rank` or `error`, not both")
        return self
