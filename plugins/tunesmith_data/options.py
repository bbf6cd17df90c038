"""Options shared by all loaders that read rows."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from tunesmith.options import Options
from tunesmith_data.formats import FORMATS, LABEL_COLUMNS, Format, find_formats

__all__ = ["check_encoding"]

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
    "label",
    "tools",
    "reasoning",
    "history",
]
Paths = str | list[str]
Column = Annotated[str, Field(min_length=1)]


def check_encoding(name: str) -> str:
    """Return the name of a text encoding as Python spells it.

    Raises:
        ValueError: Python has no text encoding with this name.
    """
    try:
        codecs.lookup(name).incrementaldecoder(errors="strict").decode(b"")
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, TypeError, ValueError):
        raise ValueError(
            "must be a text encoding that Python knows, such as utf-8, cp1252 or latin-1"
        ) from None


Encoding = Annotated[str, AfterValidator(check_encoding)]
"""The name of a text encoding, spelled as Python does."""


def _describe_formats(chosen: str) -> str:
    known = [f for f in FORMATS if chosen in ("auto", f.name)]
    return "; ".join(f"{f.name} has the fields {', '.join(f.fields)}" for f in known)


class FieldOptions(Options):
    """Options of a row loader: format, columns, and the acceptable share of unusable rows."""

    format: FormatName = Field(
        "auto", description="Format of the rows; `auto` detects it from the columns."
    )
    columns: dict[FieldName, Column] = Field(
        {},
        description=(
            'Maps fields to your column names: { prompt = "question", completion = "answer" }. '
            'Use a path for a value inside a column: "instances.0.output".'
        ),
    )
    system: Column | None = Field(None, description="System prompt for rows that have none.")
    group: Column | None = Field(
        None,
        description=("Column with group labels. Rows with equal labels stay in the same split."),
    )
    slices: list[Column] = Field(
        [],
        description="Columns to slice results by: metrics are also reported for each value.",
    )
    ignore: list[Column] = Field(
        [],
        description=(
            "Columns to ignore although their names suggest that they change what is learned, "
            "such as images, labels, weights, or a second prompt or answer."
        ),
    )
    max_skipped: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Maximum share of unusable rows; if there are more, the run stops.",
    )

    def formats(self) -> tuple[Format, ...]:
        """Return the formats that rows may have, in order of precedence."""
        return find_formats(self.format, list(self.columns))

    def ignored_columns(self) -> frozenset[str]:
        """Return the columns to ignore, including a `label` column used for groups or slices."""
        labels = set(LABEL_COLUMNS).intersection((self.group, *self.slices))
        return frozenset({*self.ignore, *(labels - {*self.columns.values()})})

    def field_columns(self) -> dict[str, str]:
        """Return the user's column names by field name."""
        return {str(name): column for name, column in self.columns.items()}

    @field_validator("columns")
    @classmethod
    def _check_columns(
        cls, value: dict[FieldName, Column], info: ValidationInfo
    ) -> dict[FieldName, Column]:
        chosen = info.data.get("format", "auto")
        if not find_formats(chosen, [str(name) for name in value]):
            raise ValueError(f"no format has all of these fields; {_describe_formats(chosen)}")
        return value


class RowOptions(FieldOptions):
    """Options of a loader for files of rows."""

    train: Paths = Field(
        description="Training data: a file, a glob pattern, or a list of these.",
        json_schema_extra={"path": True},
    )
    test: Paths | None = Field(
        None,
        description="Test files, in the same form. Unset: test rows are split off from `train`.",
        json_schema_extra={"path": True},
    )
    validation: Paths | None = Field(
        None,
        description=(
            "Validation files, in the same form, used for choices such as the best checkpoint. "
            "Unset: validation rows are split off from `train`; see `[split] validation_size`."
        ),
        json_schema_extra={"path": True},
    )
    encoding: Encoding = Field(
        "utf-8",
        description=(
            "Encoding of the files, such as `cp1252` (Windows), `latin-1`, `utf-16`, `shift_jis`."
        ),
    )
    max_row_bytes: int = Field(
        8_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Maximum size of a row, in bytes.",
    )
    max_unpacked_bytes: int = Field(
        4_000_000_000,
        ge=1_000,
        description="Maximum unpacked size of a file compressed with gzip or zstd, in bytes.",
    )

    @field_validator("train", "test", "validation")
    @classmethod
    def _check_names(cls, value: Paths | None) -> Paths | None:
        names = [value] if isinstance(value, str) else value
        if names is not None and (not names or "" in names):
            raise ValueError("must contain the name of a file")
        return value
