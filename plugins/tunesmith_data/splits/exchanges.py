"""Compute keys of exchanges: the context and the answer at each turn that is trained on.

A conversation can be the start of a longer one whose answers are all trained on. Rows are therefore
compared by all their exchanges, not only by the last one. In plain text, every line ends an
exchange, because a text can be the start of a longer one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.records import Chat, Message, Record, Text, last_exchange
from tunesmith_data.near_duplicates import compute_text_keys

__all__ = ["Exchanges"]

Hashes = npt.NDArray[np.uint64]

_BASE, _MIX, _MASK = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, (1 << 64) - 1


@dataclass(frozen=True)
class Exchanges:
    """The exchanges of all rows in order, as arrays with one value per exchange."""

    rows: npt.NDArray[np.int64]
    """Number of the row that contains the exchange."""
    contexts: Hashes
    """Key of all turns before the answer, without system messages; in plain text, of all lines."""
    ends: Hashes
    """Key of the context and the answer; in plain text, equal to ``contexts``."""
    is_answer: npt.NDArray[np.bool_]
    """True for an answer or a whole text; False for a line within a text."""
    is_last: npt.NDArray[np.bool_]
    """True for the last exchange of a row."""

    @property
    def asked(self) -> npt.NDArray[np.bool_]:
        """A boolean mask of the exchanges whose context equals the final context of some row."""
        return np.isin(self.contexts, self.contexts[self.is_last])


def has_earlier_exchanges(record: Record) -> bool:
    """Return True if more of a record than its last answer is trained on."""
    if isinstance(record, Text):
        return "\n" in record.text.strip()
    return isinstance(record, Chat) and sum(turn.is_trained for turn in record.messages) > 1


def read_exchanges(records: Iterable[Record]) -> Exchanges:
    """Return the keys of all exchanges, in time linear in the length of the texts."""
    sizes, kinds = array("q"), bytearray()

    def read() -> Iterator[str]:
        for record in records:
            turns = _turns(record)
            sizes.append(len(turns))
            for text, kind in turns:
                kinds.append(kind)
                yield text

    keys = compute_text_keys(read()).tolist()
    rows, contexts, ends = array("q"), array("Q"), array("Q")
    are_answers, lasts = bytearray(), bytearray()
    start = 0
    for row, size in enumerate(sizes):
        found = [*_chain(keys[start : start + size], kinds[start : start + size])]
        start += size
        for place, (context, end) in enumerate(found, start=1):
            rows.append(row)
            contexts.append(context)
            ends.append(end)
            lasts.append(place == len(found))
            are_answers.append(context != end or place == len(found))
    return Exchanges(
        np.frombuffer(rows, np.int64),
        np.frombuffer(contexts, np.uint64),
        np.frombuffer(ends, np.uint64),
        np.frombuffer(are_answers, np.bool_),
        np.frombuffer(lasts, np.bool_),
    )


_TURN, _ANSWER, _LINE = range(3)


def _turns(record: Record) -> Sequence[tuple[str, int]]:
    """Return the texts of a record's turns with their kinds: turn, trained answer, or text line."""
    match record:
        case Text():
            return [(line, _LINE) for line in record.text.splitlines()]
        case Chat():
            turns = record.messages
            kinds = [_ANSWER if turn.is_trained else _TURN for turn in turns]
        case _:
            asked, answer = last_exchange(record)
            turns = (*asked, answer) if isinstance(asked, tuple) else (answer,)
            kinds = [*[_TURN] * (len(turns) - 1), _ANSWER]
    pairs = zip(turns, kinds, strict=True)
    return [(_text(turn), kind) for turn, kind in pairs if turn.role != "system"]


def _text(turn: Message) -> str:
    """Return the text of a turn with its tool calls, but without reasoning, which rows may omit."""
    calls = (f"{call.name} {call.arguments}" for call in turn.tool_calls)
    return "\n".join((turn.shown_text, *calls))


def _chain(keys: Sequence[int], kinds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield two keys for each exchange of a row: one of its context, one that includes the answer.

    Turns without content are ignored. An answer without context has no exchange.
    """
    context = 0
    for key, kind in zip(keys, kinds, strict=True):
        following = _mix(context, key) if key else context
        if kind == _LINE and key:
            yield following, following
        elif kind == _ANSWER and context:
            yield context, following
        context = following


def _mix(context: int, key: int) -> int:
    mixed = ((context ^ (context >> 32)) * _BASE + key) & _MASK
    return (mixed ^ (mixed >> 29)) * _MIX & _MASK
