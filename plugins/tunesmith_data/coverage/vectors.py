"""Vectorize texts: TF-IDF of character 3- to 5-grams, hashed to a fixed number of columns.

Memory use does not grow with the number of texts: gram counts are stored in one table of fixed
size, and vectors are computed for 512 texts at a time. Hashing to 2,048 columns with random signs
changes a cosine similarity by about 0.02, for training rows and queries alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tunesmith.encoders import Encoder
from tunesmith_data.near_duplicates.boilerplate import GRAM_SHARE, MIN_ROWS
from tunesmith_data.near_duplicates.features import Floats, Hashes, Indices, NumberSets, read_grams

__all__ = ["sample_rows"]

Vectors: TypeAlias = npt.NDArray[np.float32]

GRAM_LENGTHS = (3, 4, 5)
COLUMNS = 2_048
QUERY_SHARE = 0.8
"""A gram in more than this share of the queries belongs to a template and not to a topic."""
_BLOCK_ROWS = 512
_TABLE_BITS = 22
_ROW_BITS = np.uint64(32)


class Vectorizer:
    """Turns texts into unit-length TF-IDF vectors.

    Grams in more than 20 % of the training texts are ignored, as in the near-duplicate search. So
    are grams in more than 80 % of the queries, such as an instruction that only the queries have.
    A text without any other grams gets a zero vector.
    """

    def __init__(self, train: Iterable[str], queries: Iterable[str]) -> None:
        self._train, train_rows = _count_rows(train)
        self._queries, query_rows = _count_rows(queries)
        self._all_rows = train_rows + query_rows
        self._limits = (
            max(MIN_ROWS, GRAM_SHARE * train_rows),
            max(MIN_ROWS, QUERY_SHARE * query_rows),
        )

    def blocks(self, texts: Iterable[str]) -> Iterator[Vectors]:
        """Yield the vectors of consecutive texts, at most 512 at a time."""
        for sets in read_grams(texts, GRAM_LENGTHS):
            keys, repeats = np.unique(_keys(sets), return_counts=True)
            for start in range(0, len(sets[0]), _BLOCK_ROWS):
                stop = min(start + _BLOCK_ROWS, len(sets[0]))
                first, last = np.searchsorted(keys, np.array([start, stop], np.uint64) << _ROW_BITS)
                rows = (keys[first:last] >> _ROW_BITS).astype(np.int64) - start
                yield self._vectors(
                    keys[first:last].astype(np.uint32), repeats[first:last], rows, stop - start
                )

    def vectors(self, texts: Iterable[str]) -> Vectors:
        """Return the vectors of a few texts: (texts, 2,048)."""
        return np.concatenate([np.zeros((0, COLUMNS), np.float32), *self.blocks(texts)])

    def _vectors(
        self, grams: npt.NDArray[np.uint32], repeats: Indices, rows: Indices, count: int
    ) -> Vectors:
        values = self._weights(grams) * (1 + np.log(repeats))
        values[grams & np.uint32(1) == 1] *= -1
        cells = rows * COLUMNS + (grams >> np.uint32(1)) % COLUMNS
        sums = np.bincount(cells, values, minlength=count * COLUMNS).reshape(count, COLUMNS)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        vectors: Vectors = (sums / np.where(lengths > 0, lengths, 1)).astype(np.float32)
        return vectors

    def _weights(self, grams: npt.NDArray[np.uint32]) -> Floats:
        places = _table_index(grams)
        counts, query_counts = self._train[places], self._queries[places]
        # IDF is computed over both sets. Fitted on training texts alone, it would give grams that
        # only one query has too much weight and exaggerate the distance of queries.
        weights = np.log((self._all_rows + 1) / (counts + query_counts + 1))
        weights[(counts > self._limits[0]) | (query_counts > self._limits[1])] = 0
        return weights


@dataclass(frozen=True)
class EncoderVectors:
    """The vectors of an encoder, to use instead of a :class:`Vectorizer`."""

    encoder: Encoder

    def blocks(self, texts: Iterable[str]) -> Iterator[Vectors]:
        """Yield the vectors of consecutive texts, at most 512 at a time."""
        remaining = iter(texts)
        while block := [*islice(remaining, _BLOCK_ROWS)]:
            yield np.asarray(self.encoder.encode(block), np.float32)

    def vectors(self, texts: Iterable[str]) -> Vectors:
        """Return the vectors of a few texts: (texts, dimensions)."""
        return np.concatenate([*self.blocks(texts)])


def sample_rows(rng: np.random.Generator, rows: Indices, size: int) -> Indices:
    """Return a random sample of at most ``size`` rows, in their original order."""
    return rows if len(rows) <= size else np.sort(rng.choice(rows, size, replace=False))


def _count_rows(texts: Iterable[str]) -> tuple[npt.NDArray[np.int32], int]:
    """Return the number of texts with each gram, by table index, and the total number of texts."""
    counts = np.zeros(1 << _TABLE_BITS, np.int32)
    total = 0
    for sets in read_grams(texts, GRAM_LENGTHS):
        grams = np.unique(_keys(sets)).astype(np.uint32)
        places, found = np.unique(_table_index(grams), return_counts=True)
        counts[places] += found.astype(np.int32)
        total += len(sets[0])
    return counts, total


def _keys(sets: list[NumberSets]) -> Hashes:
    """Return a number for each gram in each row, with the row in the upper 32 bits."""
    rows = np.arange(len(sets[0]), dtype=np.uint64) << _ROW_BITS
    return np.concatenate([np.repeat(rows, one.sizes()) | one.values for one in sets])


def _table_index(grams: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    result: npt.NDArray[np.uint32] = grams >> np.uint32(32 - _TABLE_BITS)
    return result
