"""Record and read the first training batch as the model saw it.

The event ``FirstBatch`` is not part of the core, and reporters that do not know it ignore it.
:func:`read_first_batches` reads it from a run's log. It contains text from the training rows, which
is redacted before it is stored and escaped before it is shown.
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
    "TokenRole",
    "TokenRow",
    "read_first_batches",
]

CONTEXT, TRAINED, SCORED, OMITTED = "c", "t", "s", "o"
"""Roles of tokens: without loss, with loss, scored by a reward model, omitted from the event."""
TokenRole = Literal["context", "trained", "scored", "omitted"]
_ROLES: dict[str, TokenRole] = {
    CONTEXT: "context", TRAINED: "trained", SCORED: "scored", OMITTED: "omitted",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """A row of the batch, or a prefix that several rows share."""

    title: str
    tokens: int
    """Number of tokens, without padding."""
    trained: int
    """Number of tokens that contribute to the loss."""
    pieces: list[str]
    """The text of each token; empty if its bytes are part of the next token's character."""
    marks: str
    """One mark per piece of text (:data:`CONTEXT`, ...), in upper case for special tokens."""

    def __iter__(self) -> Iterator[tuple[str, TokenRole, bool]]:
        """Yield the text and the role of each piece, with True if the piece is a special token."""
        for piece, mark in zip(self.pieces, self.marks, strict=False):
            yield piece, _ROLES.get(mark.lower(), "context"), mark.isupper()


@dataclass(frozen=True, kw_only=True)
class FirstBatch(Event, kind="first-batch"):
    """The tokens of the first micro-batch, recorded before the first training step."""

    stage: str = ""
    layout: Literal["packed", "shared", "padded"]
    """``shared`` means packed, with a prompt or prefix that is computed once for several rows."""
    tokens: int
    """Number of tokens in the micro-batch, without padding."""
    padding: int
    """Number of padding tokens."""
    micro_batches: int
    """Number of micro-batches per batch on this rank."""
    rows: list[TokenRow]
    """The rows of the micro-batch; a shared prefix precedes its rows."""
    hidden_rows: int = 0
    """Number of rows that are missing from ``rows``, to keep the event small."""


def read_first_batches(log: Path) -> Mapping[str, FirstBatch]:
    """Return the first batch of each stage. For a resumed run, return that of the first attempt.

    Raises:
        IntegrityError: the log is damaged.
    """
    found: dict[str, FirstBatch] = {}
    for line in read_events(log):
        if line.get("event") == FirstBatch.kind and (event := _parse(line)):
            found.setdefault(event.stage, event)
    return found


def _parse(line: dict[str, Any]) -> FirstBatch | None:
    """Parse a line of the log. Return None if another version wrote it with different fields."""
    try:
        event = from_json(line)
    except ValueError:
        return None
    return event if isinstance(event, FirstBatch) else None
