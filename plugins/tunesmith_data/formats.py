"""Row formats: recognize a row by its columns, and build its record.

The fields of a format have fixed names, such as ``prompt`` and ``completion``. A
:class:`FormatMatch` maps these fields to the columns of a file. It depends on the columns of a row,
the usual names of each field, and the user's own mapping (``columns`` in the run file).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tunesmith.records import Record
from tunesmith_data.build_records import (
    build_alpaca,
    build_chat,
    build_completion,
    build_preference,
    build_text,
)
from tunesmith_data.ignored_columns import refuse_ignored_columns, refuse_lost_text
from tunesmith_data.row_view import RowView

BuildRecord: TypeAlias = Callable[[RowView], Record]
ColumnNames: TypeAlias = Mapping[str, tuple[str, ...]]
"""Fields, each with its usual column names."""


@dataclass(frozen=True, slots=True)
class Format:
    """A row format: its required and optional fields, each with its usual column names."""

    name: str
    title: str
    required: ColumnNames
    make: BuildRecord
    optional: ColumnNames = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field names that the option ``columns`` may map."""
        return (*self.required, *self.optional)

    def build(self, view: RowView) -> Record:
        """Return the record of a row, including every column that changes what is learned.

        Raises:
            RowError: the row cannot be used, or part of it would be lost.
        """
        refuse_ignored_columns(view)
        record = self.make(view)
        refuse_lost_text(view, record)
        return record


@dataclass(frozen=True, slots=True)
class FormatMatch:
    """A format, and the columns of a file that contain its fields."""

    format: Format
    columns: Mapping[str, str]
    unread: tuple[str, ...] = ()
    """Columns that are not read although they are named like a field."""

    @property
    def required_columns(self) -> dict[str, str]:
        """The required columns of this format, by field name."""
        return {name: self.columns[name] for name in self.format.required}

    def is_compatible_with(self, other: FormatMatch) -> bool:
        """Return True if rows of both matches may share a file; optional columns may differ."""
        return (
            self.format.name == other.format.name
            and self.required_columns == other.required_columns
        )

    def __str__(self) -> str:
        required_columns = ", ".join(self.required_columns.values())
        return f"{self.format.title} ({required_columns})"


_ASK = ("prompt", "question", "instruction", "input")
_ANSWER = ("completion", "answer", "response", "output")
_REASONING = {"reasoning": ("reasoning_content", "reasoning", "thinking")}
_OPENING: ColumnNames = {"system": ("system", "system_prompt"), "tools": ("tools", "functions")}
LABEL_COLUMNS = ("label", "kto_tag")
"""Usual names of a column that labels answers as good or bad, unless it is used otherwise."""
_LABEL = {"label": LABEL_COLUMNS}

FORMATS: tuple[Format, ...] = (
    Format(
        "preference",
        "preference pairs",
        {
            "chosen": ("chosen", "chosen_messages", "preferred_output"),
            "rejected": ("rejected", "rejected_messages", "non_preferred_output"),
        },
        build_preference,
        {
            "prompt": ("prompt", "question", "instruction", "conversations", "messages", "input"),
            "input": ("input", "context"),
            **_OPENING,
        },
    ),
    Format(
        "messages",
        "chat messages",
        {"messages": ("messages",)},
        build_chat,
        {**_OPENING, **_LABEL},
    ),
    Format(
        "sharegpt",
        "ShareGPT conversations",
        {"conversations": ("conversations", "conversation")},
        build_chat,
        {**_OPENING, **_LABEL},
    ),
    Format(
        "alpaca",
        "Alpaca instructions",
        {"instruction": ("instruction",), "output": ("output", "response", "completion", "answer")},
        build_alpaca,
        {
            "input": ("input", "context"),
            "history": ("history",),
            **_REASONING,
            **_OPENING,
            **_LABEL,
        },
    ),
    Format(
        "completion",
        "prompts and completions",
        {"prompt": _ASK, "completion": _ANSWER},
        build_completion,
        {**_REASONING, **_OPENING, **_LABEL},
    ),
    Format("text", "plain text", {"text": ("text",)}, build_text),
)
"""All formats in order of precedence; the first with all required columns present matches."""

TEXT_COLUMNS = frozenset(
    (
        *(name for known in FORMATS for names in known.required.values() for name in names),
        *(*_ASK, "input", "context"),
    )
)
"""Usual names of columns that contain part of what is learned."""


def find_formats(name: str, fields: Sequence[str]) -> tuple[Format, ...]:
    """Return the formats with this name and all of these ``fields``; ``auto`` means any name."""
    return tuple(
        f for f in FORMATS if name in ("auto", f.name) and all(x in f.fields for x in fields)
    )


def match_format(
    present: frozenset[str], formats: Sequence[Format], columns: Mapping[str, str]
) -> FormatMatch | None:
    """Return the first format whose required columns are all ``present``.

    The result is None if no format matches.

    ``columns`` maps field names to the user's column names.
    """
    for candidate in formats:
        found: dict[str, str] = {}
        for name, aliases in {**candidate.required, **candidate.optional}.items():
            names = (columns[name],) if name in columns else aliases
            column = next((n for n in names if n in present and n not in found.values()), None)
            if column is not None:
                found[name] = column
        if all(name in found for name in candidate.required):
            # Users who set the format or its columns know about the other columns.
            is_chosen = len(formats) == 1 or all(name in columns for name in candidate.required)
            unread = TEXT_COLUMNS & present - {*found.values()} if not is_chosen else ()
            return FormatMatch(candidate, found, tuple(sorted(unread)))
    return None
