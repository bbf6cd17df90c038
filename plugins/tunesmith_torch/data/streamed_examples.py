"""Examples tokenized when a batch needs them, for data that takes minutes to tokenize.

A tokenizer reads a few megabytes per second. With a gigabyte of rows, the first step would wait for
minutes, and the tokens would take more space than the rows. But the number of examples must be
known before the first step, because the order of the rows depends on it. Two facts give that number
without tokenizing all rows:

- A token has at least one byte, so rows with few bytes fit. Longer rows are tokenized in advance;
  if there are too many of them, they are assumed to fit.
- Whether a chat template rejects a conversation depends on its turns, so one row of each kind is
  tokenized in advance.

A row that turns out to have no example gets an empty one, which makes its batch one row smaller.

Data is not streamed if a row can become several examples, which would change their number. This
happens with long texts, and with templates that need an example for each answer.
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
"""Maximum number of kinds of conversations; data with more kinds is not streamed."""
ROWS_PER_BLOCK = 256
"""Number of rows tokenized together, enough to keep the tokenizer's threads busy."""
BLOCKS_AHEAD = 2
"""Number of blocks tokenized ahead while the model computes, and of blocks kept in memory."""
NO_EXAMPLE = Example((), ())


@dataclass(frozen=True)
class TokenizationSettings:
    """Settings for turning records into examples."""

    template: Template
    max_length: int
    """Maximum number of tokens in a row."""
    truncate_prompts: bool = False

    def tokenize(self, records: Sequence[Record]) -> TokenizedRecords:
        """Return the records' examples, and the records that are skipped."""
        return self.template.tokenize_records(
            records, self.max_length, truncate_prompts=self.truncate_prompts
        )


@dataclass(frozen=True)
class _Block:
    """Rows that were tokenized together."""

    rows: Sequence[int]
    examples: Mapping[int, Example]
    """The example of each row that has one."""
    skipped: Sequence[SkippedRow]
    truncated: Sequence[int]
    """Rows whose prompt lost its oldest part."""
    with_control_tokens: Sequence[int]
    """Rows whose text spells a control token."""

    @cached_property
    def members(self) -> frozenset[int]:
        """Row numbers as a set, for fast look-up."""
        return frozenset(self.rows)


class StreamedExamples(Examples):
    """One example per usable record, tokenized ahead of use or by :meth:`load`."""

    def __init__(
        self,
        tokenization: TokenizationSettings,
        all_records: Sequence[Record],
        records: NDArray[np.int64],
        skipped: Sequence[SkippedRow] = (),
        longest: int = 0,
    ) -> None:
        self.tokenization = tokenization
        self.records = records
        """The index of each example's record."""
        self.longest = longest
        """Upper bound on the number of tokens of an example."""
        self.skipped_in_advance = skipped
        """Records without an example that were found before training. They have no row here."""
        self.skipped = {row.where: row for row in skipped}
        """All records known to have no example so far, by their source."""
        self.truncated = self.with_control_tokens = 0
        """Numbers of loaded rows with a shortened prompt, and with typed control tokens."""
        self._all_records = all_records
        self._seen = np.zeros(len(records), bool)
        self._loaded: deque[_Block] = deque(maxlen=BLOCKS_AHEAD)
        self._ahead: deque[tuple[frozenset[int], Future[_Block]]] = deque()
        self._blocks: Iterator[list[int]] = iter(())
        # One thread, because calls change a setting of the shared tokenizer (literal or not).
        self._executor = ThreadPoolExecutor(1, "tokenize")

    @classmethod
    def from_records(
        cls, tokenization: TokenizationSettings, records: Sequence[Record]
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
        # The smallest record of a kind contains all tokens of the template, so its length is an
        # upper bound for them.
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
        """Return the row's example, or an empty one if the row has none."""
        self.load([row])
        found = (block.examples.get(row) for block in self._loaded)
        return next((example for example in found if example is not None), NO_EXAMPLE)

    @property
    def seen(self) -> int:
        """Number of rows that have been loaded."""
        return int(np.count_nonzero(self._seen))

    def prefetch(self, batches: Iterator[Sequence[int]]) -> None:
        """Start to tokenize the rows of these batches in the background, in this order."""
        self._blocks = _join(batches)
        self._ahead.clear()
        for _ in range(BLOCKS_AHEAD):
            self._start_block()

    def load(self, rows: Sequence[int]) -> None:
        """Tokenize these rows unless they are loaded; rows loaded by earlier calls may be dropped.

        Raises:
            DataError: the data has changed, or the chat template needed too much time for a row.
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
        """Keep a block's examples, and count rows that are loaded for the first time."""
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
    """Join consecutive batches, and yield the rows of several batches at a time."""
    rows: list[int] = []
    for batch in batches:
        rows += batch
        if len(rows) >= ROWS_PER_BLOCK:
            yield rows
            rows = []
    if rows:
        yield rows


def _kind(record: Record) -> tuple[object, ...]:
    """Return the properties of a record that a template may reject it for: its type and turns."""
    if not isinstance(record, Chat):
        return (type(record),)
    return (
        Chat,
        *(
            (m.role, bool(m.reasoning), bool(m.tool_calls), bool(m.tools), m.is_trained)
            for m in record.messages
        ),
    )
