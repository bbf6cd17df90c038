"""Options that every loader of rows shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tunesmith.options import Options
from tunesmith_data.formats import FORMATS, Format, fitting

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
Paths = str | list[str]
Column = Annotated[str, Field(min_length=1)]


def _known(chosen: str) -> str:
    known = [f for f in FORMATS if chosen in ("auto", f.name)]
    return "; ".join(f"{f.name} has {', '.join(f.fields)}" for f in known)


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
        return fitting(self.format, list(self.columns))

    def renamed(self) -> dict[str, str]:
        """The user's columns by the names of the fields that stand in them."""
        return {str(name): column for name, column in self.columns.items()}

    @field_validator("train", "heldout")
    @classmethod
    def _names_files(cls, value: Paths | None) -> Paths | None:
        names = [value] if isinstance(value, str) else value
        if names is not None and (not names or "" in names):
            raise ValueError("must name a file")
        return value

    @field_validator("columns")
    @classmethod
    def _fit_a_format(
        cls, value: dict[FieldName, Column], info: ValidationInfo
    ) -> dict[FieldName, Column]:
        chosen = info.data.get("format", "auto")
        if not fitting(chosen, [str(name) for name in value]):
            raise ValueError(f"no format has all of these fields; {_known(chosen)}")
        return value
