"""Define the interface of row checks, and build their findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith.text import mask_excerpt
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.row import Row, read_row

MAX_EXAMPLES = 3


class Check(Protocol):
    """Examines each row once, in order and in blocks, and returns its findings at the end.

    Checks store numbers rather than texts, because the data may not fit in memory.
    """

    def add(self, block: Block) -> None:
        """Examine the next block of rows."""
        ...

    def findings(self, train: Sequence[Record]) -> Iterable[Finding]:
        """Return the findings. ``train`` provides the example rows, which are read again."""
        ...


@dataclass
class Tally:
    """Counts rows, and keeps the first few as examples."""

    count: int = 0
    sources: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def add(self, row: Row, text: str) -> None:
        """Count a row. Findings quote ``text`` if the row becomes an example."""
        self.count += 1
        if len(self.sources) < MAX_EXAMPLES:
            self.sources.append(row.source)
            self.texts.append(quote(text))

    @property
    def examples(self) -> list[str]:
        """The examples, each with its source and a quoted text."""
        return [f"{source} {text}" for source, text in zip(self.sources, self.texts, strict=True)]


def quote(text: str) -> str:
    """Return the start of a text in quotation marks, printable and with personal data masked."""
    return f'"{mask_excerpt(text)}"'


def show_row(train: Sequence[Record], number: int) -> str:
    """Return the source of a training row and the start of its text."""
    row = read_row(train[number])
    assert row is not None, "only rows that have been read can be shown"
    return f"{row.source} {quote(row.prompt or row.text)}"


def show_share(count: int, total: int, noun: str) -> str:
    """Format a count and its share: ``12 of 3,400 rows (0.35 %)``."""
    return f"{count:,} of {total:,} {noun} ({format_share(count / total)})"


def build_finding(
    check: str,
    level: Literal["info", "warning", "error"],
    message: str,
    count: int,
    examples: Sequence[str] = (),
    hint: str = "",
) -> Finding:
    """Build the finding of a check. ``count`` is the number of affected rows."""
    return Finding(
        level=level,
        where=f"data {check}",
        message=message,
        count=count,
        examples=tuple(examples),
        hint=hint,
    )
