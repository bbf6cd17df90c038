"""Tokenized preferences in flat arrays, in memory or memory-mapped from files."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import SkippedRow
from tunesmith.records import Record
from tunesmith_torch.data.example_store import ExampleStore, ExampleStoreBuilder
from tunesmith_torch.data.large_data import is_large
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenized_records import build_too_long_row
from tunesmith_torch.prefix.completion_groups import LabeledCompletionGroup, tokenize_preferences

__all__ = ["GroupStore", "build_group_store"]

RECORDS_PER_CALL = 1000
_LABELS = ((True, False), (True,), (False,))
"""The possible labels of a group: a pair's, those of a good answer, and of a bad one."""


@dataclass(frozen=True, eq=False)
class GroupStore(Sequence[LabeledCompletionGroup]):
    """A sequence of groups, built on access from storage of five bytes per token."""

    parts: ExampleStore
    """The prompt of each group, then its completions; their record number is the group's index."""
    labels: bytearray
    """For each group, the index of its labels in the list of possible labels."""
    records: Sequence[int]
    """For each group, the index of the record that it was made from."""
    skipped: Sequence[SkippedRow] = ()
    """Records with too many tokens for a row."""

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Index of each group's first text, and the number of all texts at the end."""
        return np.searchsorted(self.parts.records, np.arange(len(self) + 1))

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> LabeledCompletionGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabeledCompletionGroup]: ...
    def __getitem__(
        self, index: int | slice
    ) -> LabeledCompletionGroup | list[LabeledCompletionGroup]:
        rows = range(len(self))[index]
        return self._make(rows) if isinstance(rows, int) else [self._make(row) for row in rows]

    def _make(self, row: int) -> LabeledCompletionGroup:
        parts = self.parts[int(self._starts[row]) : int(self._starts[row + 1])]
        prompt, *completions = (np.asarray(part.ids).tolist() for part in parts)
        return LabeledCompletionGroup(prompt, tuple(completions), _LABELS[self.labels[row]])


def build_group_store(records: Sequence[Record], template: Template, limit: int) -> GroupStore:
    """Return the preferences of at most ``limit`` tokens; large data is stored in files.

    Raises:
        DataError: a record is neither a pair nor a labeled answer.
    """
    folder: AbstractContextManager[str | None] = nullcontext()
    if is_large(records):
        folder = TemporaryDirectory(prefix="tunesmith-")
    with folder as path:  # files may be deleted while they are mapped
        builder = ExampleStoreBuilder(None if path is None else Path(path))
        labels, kept, skipped = bytearray(), array("q"), list[SkippedRow]()
        for record, group in enumerate(_tokenize(records, template)):
            if group.longest_sequence <= limit:
                for number, ids in enumerate((group.prompt, *group.completions)):
                    builder.append(len(labels), Example(ids, np.full(len(ids), number > 0)))
                labels.append(_LABELS.index(group.labels))
                kept.append(record)
            else:
                source = records[record].source
                skipped.append(build_too_long_row(source, group.longest_sequence, limit))
        return GroupStore(builder.build(), labels, kept, skipped)


def _tokenize(records: Sequence[Record], template: Template) -> Iterator[LabeledCompletionGroup]:
    rows = iter(records)
    while batch := list(islice(rows, RECORDS_PER_CALL)):
        yield from tokenize_preferences(batch, template)
