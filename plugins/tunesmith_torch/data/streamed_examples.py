"""Examples that are tokenized when a batch needs them, for data that takes minutes to tokenize.

A tokenizer reads a few megabytes a second. With a gigabyte of rows the first step would wait for
minutes, and the tokens would take more space than the rows. But the number of examples must be
known before the first step, because the order of the rows depends on it. It is known without
tokenizing all rows:

- a token has at least one byte, so a row of few bytes fits; the longer rows are tokenized in
  advance if they are not too many, and are otherwise expected to fit;
- a chat template refuses a conversation for its turns, so a row of each kind is tokenized.

A row that turns out to give no example has an empty one: its batch is one row short.

A long text that becomes several examples, or a template that makes an example of each answer, would
change the number of examples: such data is not streamed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import SkippedRow
from tunesmith.records import Chat, Record, Text
from tunesmith_data.text import content_key
from tunesmith_torch.data.example_store import Examples
from tunesmith_torch.data.large_data import LARGE_CHARACTERS
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenized_records import TokenizedRecords

MAX_KINDS = 1000
"""Kinds of conversations up to which one of each is tokenized in advance."""
ROWS_PER_BLOCK = 256
"""Rows that are tokenized together: enough to use the tokenizer's own threads."""
BLOCKS_AHEAD = 2
"""Blocks that are tokenized while the model computes; as many are kept."""
NO_EXAMPLE = Example((), ())


@dataclass(frozen=True)
class Tokenization:
    """The settings with which records become examples."""

    template: Template
    max_length: int
    """Most tokens of a row."""
    truncate_prompts: bool = False

    def tokenize(self, records: Sequence[Record]) -> TokenizedRecords:
        """Return the examples of these records."""
        return self.template.tokenize_records(
            records, self.max_length, truncate_prompts=self.truncate_prompts
        )


@dataclass(frozen=True)
class _Block:
    """Rows that were tokenized together."""

    rows: Sequence[int]
    examples: Mapping[int, Example]
    """The examples of the rows that have one."""
    skipped: Sequence[SkippedRow]
    truncated: Sequence[int]
    """Rows whose prompt lost its oldest part."""
    with_control_tokens: Sequence[int]
    """Rows whose text spells a control token."""

    @cached_property
    def members(self) -> frozenset[int]:
        """The rows as a set."""
        return frozenset(self.rows)


class StreamedExamples(Examples):
    """One example for each usable record, tokenized by :meth:`load`, or ahead of it."""

    def __init__(
        self,
        tokenization: Tokenization,
        all_records: Sequence[Record],
        records: NDArray[np.int64],
        skipped: Sequence[SkippedRow] = (),
        longest: int = 0,
    ) -> None:
        self.tokenization = tokenization
        self.records = records
        """The record that each example is from."""
        self.longest = longest
        """Upper bound of the tokens of an example."""
        self.skipped_in_advance = skipped
        """Records that are known to give no example, and are none of the rows."""
        self.skipped = {row.where: row for row in skipped}
        """All records without an example that are known so far, by their source."""
        self.truncated = self.with_control_tokens = 0
        """Rows that were loaded and lost a part of their prompt, or spell a control token."""
        self._all_records = all_records
        self._seen = np.zeros(len(records), bool)
        self._loaded: deque[_Block] = deque(maxlen=BLOCKS_AHEAD)
        self._ahead: deque[tuple[frozenset[int], Future[_Block]]] = deque()
        self._blocks: Iterator[list[int]] = iter(())
        # One thread, because a tokenizer has a setting that is changed between two calls.
        self._executor = ThreadPoolExecutor(1, "tokenize")

    @classmethod
    def from_records(
        cls, tokenization: Tokenization, records: Sequence[Record]
    ) -> StreamedExamples | None:
        """Return the examples of these records, or None if they cannot be streamed."""
        kinds: dict[tuple[object, ...], tuple[int, int]] = {}
        sizes = np.zeros(len(records), np.int64)
        for index, record in enumerate(records):
            sizes[index] = size = len(content_key(record).encode("utf-8", "surrogatepass"))
            kind = _kind(record)
            if kind not in kinds or size < kinds[kind][0]:
                kinds[kind] = size, index
            if len(kinds) > MAX_KINDS:
                return None
        smallest = tokenization.tokenize([records[index] for _, index in kinds.values()])
        if not _are_single(smallest):
            return None
        # The smallest record of a kind has all tokens of the template, and some of its own.
        template_tokens = int(smallest.examples.lengths.max(initial=0))
        usable = np.ones(len(records), bool)
        long = np.flatnonzero(sizes + template_tokens > tokenization.max_length)
        skipped: Sequence[SkippedRow] = ()
        if sizes[long].sum() <= LARGE_CHARACTERS:
            tokenized = tokenization.tokenize([records[index] for index in long.tolist()])
            if not _are_single(tokenized):
                return None
            usable[np.delete(long, tokenized.examples.records)] = False
            skipped = tokenized.skipped
        elif any(isinstance(records[index], Text) for index in long.tolist()):
            return None
        longest = min(tokenization.max_length, int(sizes.max(initial=0)) + template_tokens)
        return cls(tokenization, records, np.flatnonzero(usable), skipped, longest)

    def __len__(self) -> int:
        return len(self.records)

    def make(self, row: int) -> Example:
        """Return an example; it is empty if the row has none."""
        self.load([row])
        found = (block.examples.get(row) for block in self._loaded)
        return next((example for example in found if example is not None), NO_EXAMPLE)

    @property
    def seen(self) -> int:
        """Number of rows that have been loaded."""
        return int(np.count_nonzero(self._seen))

    def prefetch(self, batches: Iterator[Sequence[int]]) -> None:
        """Tokenize these batches in the background, in this order."""
        self._blocks = _join(batches)
        self._ahead.clear()
        for _ in range(BLOCKS_AHEAD):
            self._start_block()

    def load(self, rows: Sequence[int]) -> None:
        """Have these rows ready; those of earlier calls may be forgotten.

        Raises:
            DataError: the data has changed, or the template runs too long for a row.
        """
        while not self._are_loaded(rows):
            if self._ahead and not self._ahead[0][0].isdisjoint(rows):
                self._keep(self._ahead.popleft()[1].result())
                self._start_block()
            else:
                self._keep(self._executor.submit(self._tokenize, rows).result())

    def _are_loaded(self, rows: Sequence[int]) -> bool:
        return any(block.members.issuperset(rows) for block in self._loaded)

    def _start_block(self) -> None:
        rows = next(self._blocks, None)
        if rows is not None:
            future = self._executor.submit(self._tokenize, rows)
            self._ahead.append((frozenset(rows), future))

    def _keep(self, block: _Block) -> None:
        """Keep the examples of a block, and account for the rows that are loaded first."""
        self._loaded.append(block)
        self.truncated += int(np.count_nonzero(~self._seen[block.truncated]))
        new = ~self._seen[block.with_control_tokens]
        self.with_control_tokens += int(np.count_nonzero(new))
        self._seen[block.rows] = True
        for row in block.skipped:
            self.skipped.setdefault(row.where, row)

    def _tokenize(self, rows: Sequence[int]) -> _Block:
        records = [self._all_records[index] for index in self.records[rows].tolist()]
        tokenized = self.tokenization.tokenize(records)
        store = tokenized.examples
        counts = np.bincount(store.records, minlength=len(rows))
        several = [
            SkippedRow(where=records[row].source, cause="row becomes several examples")
            for row in np.flatnonzero(counts > 1).tolist()
        ]
        return _Block(
            rows,
            {
                rows[row]: example
                for row, example in zip(store.records.tolist(), store, strict=True)
                if counts[row] == 1
            },
            [*tokenized.skipped, *several],
            [rows[row] for row in tokenized.truncated],
            [rows[row] for row in tokenized.with_control_tokens],
        )


def _are_single(tokenized: TokenizedRecords) -> bool:
    """Return True if no record became several examples."""
    records = tokenized.examples.records
    return len(np.unique(records)) == len(records)


def _join(batches: Iterator[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the rows of several batches at a time."""
    rows: list[int] = []
    for batch in batches:
        rows += batch
        if len(rows) >= ROWS_PER_BLOCK:
            yield rows
            rows = []
    if rows:
        yield rows


def _kind(record: Record) -> tuple[object, ...]:
    """Return what a chat template may refuse a record for: its type and its turns."""
    if not isinstance(record, Chat):
        return (type(record),)
    return (
        Chat,
        *(
            (m.role, bool(m.reasoning), bool(m.tool_calls), bool(m.tools), m.is_trained)
            for m in record.messages
        ),
    )
