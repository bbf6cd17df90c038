"""Options that every loader of rows shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from tunesmith.options import Options

from tunesmith_plugins.rows.formats import FORMATS, Format, fitting

FormatName = Literal["auto", "preference", "messages", "sharegpt", "alpaca", "completion", "text"]
FieldName = Literal[
    "prompt",
    "completion",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "chosen",
    "rejected",
    "system",
    "text",
]
Paths = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
)
Column = Annotated[str, Field(min_length=1)]


class RowOptions(Options):
    """Which files, how their rows become records, and how much may be unusable."""

    train: Paths = Field(
        description="The file to learn from, a glob pattern, or a list of either.",
        json_schema_extra={"path": True},
    )
    heldout: Paths | None = Field(
        None,
        description="Files to evaluate on. Without it a part of `train` is held out.",
        json_schema_extra={"path": True},
    )
    format: FormatName = Field("auto", description="Format of the rows; auto detects it.")
    columns: dict[FieldName, Column] = Field(
        {},
        description='Names of your columns: { prompt = "question", completion = "answer" }.',
    )
    system: Column | None = Field(
        None, description="System prompt for every row that does not bring its own."
    )
    group: Column | None = Field(
        None, description="Column whose equal values are never torn apart by the split."
    )
    slices: list[Column] = Field(
        [], description="Columns by whose values the results are also reported."
    )
    max_left_out: float = Field(
        0.01, ge=0, le=1, description="Share of the rows that may be unusable before the run stops."
    )
    max_row_bytes: int = Field(
        8_000_000, ge=1_000, le=1_000_000_000, description="Largest row that is read, in bytes."
    )
    max_unpacked_bytes: int = Field(
        4_000_000_000, ge=1_000, description="Largest size of a gzip file once unpacked, in bytes."
    )

    def formats(self) -> tuple[Format, ...]:
        """The formats that rows may have, in the order in which they are tried."""
        return fitting(self.format, self.renamed())

    def renamed(self) -> dict[str, str]:
        """The user's columns by the names of the fields that stand in them."""
        return {str(name): column for name, column in self.columns.items()}

    @model_validator(mode="after")
    def _columns_fit_a_format(self) -> RowOptions:
        if not self.formats():
            wanted = "any format" if self.format == "auto" else f"format {self.format}"
            known = "; ".join(f"{f.name}: {', '.join(f.fields)}" for f in FORMATS)
            raise ValueError(f"columns do not fit {wanted} ({known})")
        return self
