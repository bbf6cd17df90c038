"""Detect data that is too large to tokenize before training, and sample it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tunesmith.records import Record
from tunesmith_data.text import content_key

__all__ = ["sample_evenly", "sample_if_large"]

T = TypeVar("T")

LARGE_CHARACTERS = 64_000_000
"""Number of characters above which data is large.

Tokenizing that much text takes half a minute of CPU time, and the tokens take 100 MB of memory. A
data loader also leaves the rows of larger files on disk.
"""
SAMPLE_ROWS = 1000
"""Number of records sampled from large data."""


def is_large(records: Sequence[Record]) -> bool:
    """Return True if the text, estimated from a sample, exceeds ``LARGE_CHARACTERS``."""
    sample = sample_evenly(records)
    characters = sum(len(content_key(record)) for record in sample)
    return characters * len(records) > LARGE_CHARACTERS * len(sample)


def sample_evenly(items: Sequence[T], size: int = SAMPLE_ROWS) -> list[T]:
    """Return up to ``size`` items at evenly spaced positions."""
    count = min(len(items), size)
    return [items[number * len(items) // count] for number in range(count)]


def sample_if_large(records: Sequence[Record]) -> Sequence[Record]:
    """Return a sample of large data; return other data unchanged."""
    return sample_evenly(records) if is_large(records) else records
