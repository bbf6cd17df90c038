"""Count the rows that cannot be used, and reject data with too many of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from tunesmith.contracts import SkippedRow
from tunesmith.errors import DataError
from tunesmith.text import format_count
from tunesmith_data.row import RowError

__all__ = ["describe_skipped"]

MAX_CONTENT = 100_000
"""Maximum number of characters of an unusable row to keep."""
MAX_CONTENT_OF_ALL = 50_000_000


@dataclass
class SkippedRows:
    """The rows that cannot be used, with a check of their share."""

    allowed: float
    """Maximum acceptable share of unusable rows, from 0 to 1."""
    skipped: list[SkippedRow] = field(default_factory=list)
    hints: dict[str, str] = field(default_factory=dict)

    _content_size: int = 0

    def add(self, where: str, error: RowError, content: str = "") -> None:
        """Add an unusable row; its ``content`` is kept if there is space."""
        content = content[:MAX_CONTENT]
        self._content_size += len(content)
        if self._content_size > MAX_CONTENT_OF_ALL:
            content = ""
        self.skipped.append(
            SkippedRow(where=where, cause=error.cause, detail=error.detail, row=content)
        )
        if error.hint:
            self.hints.setdefault(error.cause, error.hint)

    def check(self, name: str, used: int) -> None:
        """Raise a :class:`DataError` if no row is usable or too many are unusable."""
        unusable = len(self.skipped)
        rows = used + unusable
        if rows == 0:
            raise DataError(name, "has no rows", hint="check that the file was written completely")
        if used and unusable <= self.allowed * rows:
            return
        causes = Counter(item.cause for item in self.skipped)
        first = {item.cause: item for item in reversed(self.skipped)}
        lines = [_format_cause(count, first[cause]) for cause, count in causes.most_common(10)]
        summary = f"{unusable:,} of {rows:,} rows cannot be used"
        hints = [self.hints[cause] for cause, _ in causes.most_common() if cause in self.hints]
        other = "check the first of these rows: the file may have another format"
        hint = hints[0] if hints else other
        if used:
            summary += f", more than max_skipped = {self.allowed:g} allows"
            share = math.ceil(100 * unusable / rows) / 100
            hint = (
                f"{hints[0] if hints else 'fix these rows'}, or set max_skipped = {share:g} in "
                f"[data] (--set data.max_skipped={share:g}) to use only the other {used:,} of "
                f"{rows:,} rows"
            )
        raise DataError(name, "\n".join([summary, *lines]), hint=hint, skipped=self.skipped)


def _format_cause(count: int, first: SkippedRow) -> str:
    detail = f" ({first.detail})" if first.detail else ""
    return f"  {count:,} × {first.cause}, first at {first.where}{detail}"


def describe_skipped(cause: str, count: int, first: str = "") -> str:
    """Describe the rows skipped for one cause; ``first`` is the place of the first one."""
    verb = "is" if count == 1 else "are"
    place = f", {'at' if count == 1 else 'first at'} {first}" if first else ""
    return f"{format_count(count, 'row')} {verb} skipped: {cause}{place}"
