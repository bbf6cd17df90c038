"""The first batch of a training as the model saw it: its event, and how reports read it.

The event is not one of the core: a reporter that does not know it ignores it, and
:func:`read_first_batches` reads it from the log of a run. It has the text of users: it is redacted
before it is stored, and made safe where it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.events import Event, from_json
from tunesmith.storage import read_events

__all__ = [
    "CONTEXT",
    "OMITTED",
    "SCORED",
    "TRAINED",
    "FirstBatch",
    "Role",
    "TokenRow",
    "read_first_batches",
]

CONTEXT, TRAINED, SCORED, OMITTED = "c", "t", "s", "o"
"""Marks of tokens: without a loss; with one; of the state that becomes a reward; skipped here."""
Role = Literal["context", "trained", "scored", "omitted"]
_ROLES: dict[str, Role] = {
    CONTEXT: "context", TRAINED: "trained", SCORED: "scored", OMITTED: "omitted",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """A row of the batch, or a prefix that several rows share."""

    title: str
    tokens: int
    """Number of tokens of the row, without padding."""
    trained: int
    """Tokens that contribute to the loss."""
    pieces: list[str]
    """The text of each token; empty if its bytes belong to the character of the next one."""
    marks: str
    """A letter for each piece: what the loss does with it. Upper case: a special token."""

    def __iter__(self) -> Iterator[tuple[str, Role, bool]]:
        """Yield the text of each piece, its role, and True if it is a special token."""
        for piece, mark in zip(self.pieces, self.marks, strict=False):
            yield piece, _ROLES.get(mark.lower(), "context"), mark.isupper()


@dataclass(frozen=True, kw_only=True)
class FirstBatch(Event, kind="first-batch"):
    """The first micro-batch of a training, before its first step: the tokens that are computed."""

    stage: str = ""
    layout: Literal["packed", "shared", "padded"]
    """``shared``: packed, with prompts or a prefix that are computed once for several rows."""
    tokens: int
    """Tokens of the micro-batch, without padding."""
    padding: int
    """Number of tokens that fill shorter rows up."""
    micro_batches: int
    """Number of micro-batches of the batch, on this rank."""
    rows: list[TokenRow]
    """Prefixes first, then the rows that follow them."""
    hidden_rows: int = 0
    """Rows of the micro-batch that are not among ``rows``, so that the event stays small."""


def read_first_batches(log: Path) -> Mapping[str, FirstBatch]:
    """Return the first batch of each stage; of a resumed run, that of its first start.

    Raises:
        IntegrityError: the log is damaged.
    """
    found: dict[str, FirstBatch] = {}
    for line in read_events(log):
        if line.get("event") == FirstBatch.kind and (event := _parse(line)):
            found.setdefault(event.stage, event)
    return found


def _parse(line: dict[str, Any]) -> FirstBatch | None:
    """Return the event of a line; None if another version has written other fields."""
    try:
        event = from_json(line)
    except ValueError:
        return None
    return event if isinstance(event, FirstBatch) else None
