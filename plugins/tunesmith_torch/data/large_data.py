"""Data that is too large to be tokenized before training, and samples of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tunesmith.records import Record
from tunesmith_data.text import content_key

__all__ = ["sample_evenly", "sample_if_large"]

T = TypeVar("T")

LARGE_CHARACTERS = 64_000_000
"""Text above this size is large: tokenizing it would take half a minute of CPU time, and its tokens
100 MB of memory. It is also the size above which a data loader leaves rows in their files."""
SAMPLE_ROWS = 1000
"""Records that represent large data."""


def is_large(records: Sequence[Record]) -> bool:
    """Return True if the text of the records, estimated from a sample, is large."""
    sample = sample_evenly(records)
    characters = sum(len(content_key(record)) for record in sample)
    return characters * len(records) > LARGE_CHARACTERS * len(sample)


def sample_evenly(items: Sequence[T], size: int = SAMPLE_ROWS) -> list[T]:
    """Return items at evenly spaced positions, or all of them if there are no more."""
    count = min(len(items), size)
    return [items[number * len(items) // count] for number in range(count)]


def sample_if_large(records: Sequence[Record]) -> Sequence[Record]:
    """Return a sample of large data, and other data as it is."""
    return sample_evenly(records) if is_large(records) else records
