"""Tokenized records: the examples, and an account of the records that gave none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from tunesmith.contracts import LeftOut
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.tokenization import TextSpan


@dataclass(frozen=True, kw_only=True)
class TokenizedRecords:
    """The examples of some records, with an account of every record that did not fit."""

    examples: Sequence[Example]
    left_out: Sequence[LeftOut]
    """Records without an example, and the reason for each."""
    truncated: int = 0
    """Number of examples whose prompt lost its oldest part. Answers are never truncated."""
    split_texts: int = 0
    """Number of texts that were longer than an example may be and became several."""
    with_control_tokens: int = 0
    """Number of records whose text spells a control token; it was encoded as plain text."""

    @property
    def tokens(self) -> int:
        """Tokens in one pass over the examples, prompts included."""
        return sum(len(example.ids) for example in self.examples)

    @property
    def trained_tokens(self) -> int:
        """Tokens that contribute to the loss in one pass over the examples."""
        return sum(int(np.count_nonzero(example.trained)) for example in self.examples)


@dataclass
class TokenizedRecordsBuilder:
    """The fields of :class:`TokenizedRecords` while records are being tokenized."""

    examples: list[Example] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    truncated: int = 0
    split_texts: int = 0
    with_control_tokens: int = 0

    def leave_out(self, record: Record, error: DataError) -> None:
        """Record the reason why a record gives no example."""
        self.left_out.append(left_out(record, error))


def left_out(record: Record, error: DataError) -> LeftOut:
    """Return the account of a record that gives no example."""
    cause, _, detail = error.message.removeprefix(f"{error.where}: ").partition(", ")
    return LeftOut(where=record.source, cause=cause, detail=detail[:80])


def build_example(spans: Sequence[TextSpan], ids: Sequence[Sequence[int]]) -> Example:
    """Return the example of these spans, whose ids are given."""
    lengths = [len(part) for part in ids]
    trained = [span.trained and span.weight > 0 for span in spans]
    weights = [
        span.weight if is_trained else 1.0 for span, is_trained in zip(spans, trained, strict=True)
    ]
    return Example(
        np.fromiter(chain.from_iterable(ids), np.int32, sum(lengths)),
        np.repeat(np.array(trained, bool), lengths),
        None if set(weights) == {1.0} else np.repeat(np.array(weights, np.float32), lengths),
    )


def split_text(example: Example, limit: int, bos_length: int) -> Iterator[Example]:
    """Yield the parts of a long text, each with the BOS of a complete text in front."""
    step = limit - bos_length
    for start in range(bos_length, len(example), step):
        stop = start + step
        yield Example(
            np.r_[example.ids[:bos_length], example.ids[start:stop]],
            np.r_[example.trained[:bos_length], example.trained[start:stop]],
        )


def truncate_prompt(example: Example, limit: int, bos_ids: tuple[int, ...]) -> Example | None:
    """Return the newest part of a conversation, or None if no token of its prompt would remain.

    A BOS at the start is kept. An earlier answer that is cut in two is no longer trained.
    """
    ids, trained = np.asarray(example.ids), np.asarray(example.trained)
    bos_length = len(bos_ids) if tuple(ids[: len(bos_ids)]) == bos_ids else 0
    start = len(ids) - (limit - bos_length)
    untrained = np.flatnonzero(~trained)
    if start > untrained[-1]:
        return None
    kept_trained = trained[start:].copy()
    if trained[start - 1]:
        kept_trained[: untrained[untrained >= start][0] - start] = False
    weights = example.weights
    return Example(
        np.r_[ids[:bos_length], ids[start:]],
        np.r_[trained[:bos_length], kept_trained],
        None if weights is None else np.r_[weights[:bos_length], weights[start:]],
    )
