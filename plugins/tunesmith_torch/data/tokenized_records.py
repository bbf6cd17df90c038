"""Join, split and skip tokenized records, and keep the reasons for skipped records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np

from tunesmith.contracts import SkippedRow
from tunesmith.errors import DataError
from tunesmith.records import Record, Text
from tunesmith_torch.data.chat_format import Exchange
from tunesmith_torch.data.example_store import ExampleStore, ExampleStoreBuilder
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.tokenization import TextSpan

__all__ = ["TOO_LONG", "TokenizedRecords"]

TOO_LONG = "row is too long"
"""Reason for skipping a record that has more tokens than a row may have."""
NOTHING_TO_LEARN = "row has no tokens to learn"
"""Reason for skipping an example without tokens to learn, such as a text of a single token."""


@dataclass(frozen=True, kw_only=True)
class TokenizedRecords:
    """The examples of a list of records, and which records were skipped, cut or split."""

    examples: ExampleStore
    skipped: Sequence[SkippedRow]
    """Records without an example, each with the reason."""
    truncated: Sequence[int] = ()
    """Indices of records whose prompt lost its oldest part; answers are never truncated."""
    split_texts: Sequence[int] = ()
    """Indices of texts that were too long for one example and became several."""
    with_control_tokens: Sequence[int] = ()
    """Indices of records whose text spells a control token, which was encoded as plain text."""

    @property
    def tokens(self) -> int:
        """Number of tokens in one pass over the examples, including prompts."""
        return self.examples.tokens

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that contribute to the loss in one pass over the examples."""
        return self.examples.trained_tokens


class JoinedExample(NamedTuple):
    """An example and the positions of its trained answers."""

    example: Example
    answers: Sequence[tuple[int, int]]
    """The start and the end (exclusive) of each trained answer, in tokens."""


@dataclass
class TokenizedRecordsBuilder:
    """Collects the fields of :class:`TokenizedRecords` while records are tokenized."""

    max_length: int
    """Maximum number of tokens in a row."""
    truncate_prompts: bool
    bos_ids: tuple[int, ...]
    """Token ids at the start of a row that is plain text."""
    examples: ExampleStoreBuilder = field(default_factory=ExampleStoreBuilder)
    skipped: list[SkippedRow] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    """Indices of records whose prompt was truncated."""
    split_texts: list[int] = field(default_factory=list)
    """Indices of texts that were split into several rows."""
    with_control_tokens: list[int] = field(default_factory=list)
    """Indices of records whose text has control tokens."""

    def add(self, index: int, record: Record, joined: Iterable[JoinedExample]) -> None:
        """Add the examples of a record; split, shorten or skip those that are too long.

        A record is reported as too long or truncated only once, even if it has several examples.
        """
        longest, is_truncated = 0, False
        for example, answers in joined:
            limit = self.max_length
            if not np.any(example.trained):
                self.skipped.append(SkippedRow(where=record.source, cause=NOTHING_TO_LEARN))
            elif len(example) <= limit:
                self.examples.append(index, example)
            elif isinstance(record, Text):
                self.examples.extend(index, split_text(example, limit, len(self.bos_ids)))
                self.split_texts.append(index)
            elif self.truncate_prompts and (
                cut := truncate_prompt(example, answers, limit, self.bos_ids)
            ):
                self.examples.append(index, cut)
                is_truncated = True
            else:
                longest = max(longest, len(example))
        if is_truncated:
            self.truncated.append(index)
        if longest:
            self.skipped.append(build_too_long_row(record.source, longest, self.max_length))

    def skip_record(self, record: Record, error: DataError) -> None:
        """Skip a record, with the error as the reason."""
        self.skipped.append(build_skipped_row(record, error))

    def build(self) -> TokenizedRecords:
        """Return the tokenized records."""
        return TokenizedRecords(
            examples=self.examples.build(),
            skipped=self.skipped,
            truncated=self.truncated,
            split_texts=self.split_texts,
            with_control_tokens=self.with_control_tokens,
        )


def build_too_long_row(source: str, tokens: int, limit: int) -> SkippedRow:
    """Return the skipped row for a record that is too long."""
    return SkippedRow(
        where=source, cause=TOO_LONG, detail=f"{tokens:,} tokens, at most {limit:,} are allowed"
    )


def build_skipped_row(record: Record, error: DataError) -> SkippedRow:
    """Return the skipped row for a record that caused this error."""
    cause, _, detail = error.message.removeprefix(f"{error.where}: ").partition(", ")
    return SkippedRow(where=record.source, cause=cause, detail=detail[:80])


def build_example(spans: Sequence[TextSpan], ids: Sequence[Sequence[int]]) -> Example:
    """Return the example made from these spans and their token ids."""
    lengths = [len(part) for part in ids]
    trained = [span.trained and span.weight > 0 for span in spans]
    weights = [
        span.weight if is_trained else 1.0 for span, is_trained in zip(spans, trained, strict=True)
    ]
    trained_T = np.repeat(np.array(trained, bool), lengths)
    trained_T[:1] = False  # no earlier token predicts the first one
    return Example(
        np.fromiter(chain.from_iterable(ids), np.int32, sum(lengths)),
        trained_T,
        None if set(weights) == {1.0} else np.repeat(np.array(weights, np.float32), lengths),
    )


def join_exchanges(
    exchanges: Sequence[Exchange], ids: Sequence[Sequence[Sequence[int]]]
) -> Iterator[JoinedExample]:
    """Yield the examples of a record, given the token ids of each exchange's spans.

    Exchanges are joined in one example if each prompt starts with the ids of the exchange before
    it, including that answer's end token::

        exchange 1   [prompt 1][answer 1]
        exchange 2   [prompt 1][answer 1][user turn][answer 2]

        joined       [prompt 1][answer 1][user turn][answer 2]
        trained       0 0 0 0   1 1 1 1   0 0 0 0    1 1 1 1

    Templates that drop earlier reasoning, or write no end token after earlier answers, break this:
    no single row then contains the ids of every prompt, and each answer becomes its own example.
    """
    joined: JoinedExample | None = None
    for (prompt, answer), parts in zip(exchanges, ids, strict=True):
        example = build_example([*prompt, *answer], parts)
        length = sum(map(len, parts[: len(prompt)]))
        before, joined = joined, JoinedExample(example, [(length, len(example))])
        if before is None:
            continue
        stop = len(before.example)
        if stop <= length and np.array_equal(before.example.ids, example.ids[:stop]):
            whole = _with_earlier(before.example, example)
            joined = JoinedExample(whole, [*before.answers, *joined.answers])
        else:
            yield before
    if joined is not None:
        yield joined


def _with_earlier(before: Example, example: Example) -> Example:
    """Return the example, with mask and weights copied from ``before`` for the tokens it covers."""
    trained = np.r_[before.trained, example.trained[len(before) :]]
    if before.weights is None and example.weights is None:
        return Example(example.ids, trained)
    ones, rest = np.ones(len(before), np.float32), np.ones(len(example) - len(before), np.float32)
    earlier = ones if before.weights is None else before.weights
    later = rest if example.weights is None else example.weights[len(before) :]
    return Example(example.ids, trained, np.r_[earlier, later])


def split_text(example: Example, limit: int, bos_length: int) -> Iterator[Example]:
    """Split a long text into parts, each starting with the text's BOS.

    Without a BOS, each part starts with the last token of the previous part, which predicts the
    part's first token in the loss. So every token of the text except the first contributes to the
    loss exactly once.
    """
    context = max(bos_length, 1)
    step = limit - context
    for start in range(context, len(example), step):
        stop, first = start + step, 0 if bos_length else start - 1
        yield Example(
            np.r_[example.ids[first : first + context], example.ids[start:stop]],
            np.r_[np.zeros(context, bool), example.trained[start:stop]],
        )


def truncate_prompt(
    example: Example, answers: Sequence[tuple[int, int]], limit: int, bos_ids: tuple[int, ...]
) -> Example | None:
    """Return the newest part of a conversation, or None if no token of its prompt would remain.

    A BOS at the start is kept. An earlier answer that is cut, or loses its whole prompt, no longer
    contributes to the loss. ``answers`` comes from :class:`JoinedExample`: the mask alone does not
    show where an answer begins, because tokens with weight 0 are masked.
    """
    ids, trained = np.asarray(example.ids), np.asarray(example.trained)
    bos_length = len(bos_ids) if tuple(ids[: len(bos_ids)]) == bos_ids else 0
    start = len(ids) - (limit - bos_length)
    if start >= answers[-1][0]:
        return None
    kept_trained = trained[start:].copy()
    for first, stop in answers:
        if first <= start < stop:
            kept_trained[: stop - start] = False
    weights = example.weights
    return Example(
        np.r_[ids[:bos_length], ids[start:]],
        np.r_[trained[:bos_length], kept_trained],
        None if weights is None else np.r_[weights[:bos_length], weights[start:]],
    )
