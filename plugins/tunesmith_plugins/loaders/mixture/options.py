"""Options of ``mixture``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from tunesmith.options import Options

Paths = str | list[str]


class SourceOptions(Options):
    """Options of one source of a mixture."""

    use: str | None = Field(
        None, min_length=1, description="Data loader. Unset: the one that knows the files."
    )
    train: Paths | None = Field(
        None, description="Files with training data.", json_schema_extra={"path": True}
    )
    test: Paths | None = Field(
        None, description="Files to evaluate on.", json_schema_extra={"path": True}
    )
    validation: Paths | None = Field(
        None, description="Files for choices.", json_schema_extra={"path": True}
    )
    weight: float | None = Field(
        None, gt=0, description="Share of the rows, relative to the other sources."
    )
    max_rows: int | None = Field(
        None, ge=1, description="Rows of this source to choose from, at most."
    )
    options: dict[str, Any] = Field({}, description="Further options of the data loader.")


class MixtureOptions(Options):
    """Options of ``mixture``: the sources, and how many rows each of them has."""

    sources: Annotated[
        list[SourceOptions],
        Field(min_length=1, max_length=100, description="The sources, each [[data.sources]]."),
    ]
    temperature: float = Field(
        1.0,
        ge=1,
        le=100,
        description=(
            "Without weights, a source with n rows has a share of n^(1/temperature): above 1, "
            "small sources have a larger share than their size."
        ),
    )
    rows: int | None = Field(
        None,
        ge=1,
        description="Number of rows of the mixture. Unset: as many as the shares permit.",
    )
    repeat: bool = Field(
        False, description="Repeat the rows of sources that are too small for their share."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the choice of rows.")

    @model_validator(mode="after")
    def _check_weights(self) -> MixtureOptions:
        weights = [source.weight for source in self.sources]
        if None in weights and any(weight is not None for weight in weights):
            raise ValueError("all sources have a weight, or none has one")
        return self
