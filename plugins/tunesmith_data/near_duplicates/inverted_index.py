"""Compare all pairs of texts exactly, by counting shared numbers with an inverted index.

The time grows with the number of pairs. Use this module for small data, or to find the nearest text
at any distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tunesmith_data.near_duplicates.features import (
    Bits,
    Block,
    Boilerplate,
    Floats,
    Indices,
    Numbers,
    NumberSets,
    deduplicate_sets,
    read_blocks,
)
from tunesmith_data.near_duplicates.threshold import Threshold

_CELLS = 1 << 20  # pairs of texts to count per batch, which limits memory use


def find_similar_pairs(
    texts: Iterable[str], boilerplate: Boilerplate, threshold: Threshold
) -> Iterator[tuple[Indices, Indices]]:
    """Yield all pairs of near-duplicates, pairing each text with the texts before it."""
    blocks = [_distinct(block) for block in read_blocks(texts, boilerplate)]
    first_known = 0
    for number, known in enumerate(blocks):
        index = _BlockIndex(known)
        first_query = first_known
        for queries in blocks[number:]:
            for start, characters, words in index.compare(queries):
                similar = threshold.accepts(characters, words)
                for row in np.flatnonzero(similar.any(axis=1)).tolist():
                    others = first_known + np.flatnonzero(similar[row])
                    query = first_query + start + row
                    others = others[others < query]
                    yield others, np.full(len(others), query)
            first_query += len(queries.keys)
        first_known += len(known.keys)


def find_nearest_texts(
    known: Iterable[str],
    queries: Iterable[str],
    boilerplate: Boilerplate,
    threshold: Threshold | None,
) -> tuple[Floats, Floats, Indices]:
    """Find the most similar known text for each query.

    Texts are ranked by 5-grams, then by words, then by index. ``queries`` is read again for every
    262,144 characters of ``known``.

    Returns:
        The similarities of 5-grams and of words, and the index of the known text. The index is -1
        if no known text shares a 5-gram with the query or reaches the threshold.
    """
    best = _Best()
    first_known = 0
    for block in read_blocks(known, boilerplate):
        index = _BlockIndex(_distinct(block))
        first_query = 0
        for other in read_blocks(queries, boilerplate):
            for start, characters, words in index.compare(_distinct(other)):
                if threshold is not None:
                    characters = np.where(threshold.accepts(characters, words), characters, 0)
                best.update(first_query + start, characters, words, first_known)
            first_query += len(other.keys)
        first_known += len(block.keys)
    return best.characters, best.words, best.rows


def _distinct(block: Block) -> Block:
    return Block(deduplicate_sets(block.grams), deduplicate_sets(block.words), block.keys)


class _Best:
    """The best match so far for each query."""

    def __init__(self) -> None:
        self.characters = np.zeros(0)
        self.words = np.zeros(0)
        self.rows = np.zeros(0, dtype=np.int64)

    def update(self, start: int, characters: Floats, words: Floats, first_known: int) -> None:
        """Compare queries, starting at ``start``, with known texts, starting at ``first_known``."""
        stop = start + len(characters)
        if stop > len(self.rows):
            self.characters = np.append(self.characters, np.zeros(stop - len(self.rows)))
            self.words = np.append(self.words, np.zeros(stop - len(self.words)))
            self.rows = np.append(self.rows, np.full(stop - len(self.rows), -1))
        highest = characters.max(axis=1)
        columns = np.where(characters == highest[:, None], words, -1).argmax(axis=1)
        with_words = words[np.arange(len(columns)), columns]
        old, old_words = self.characters[start:stop], self.words[start:stop]
        better = (highest > old) | ((highest == old) & (highest > 0) & (with_words > old_words))
        self.characters[start:stop][better] = highest[better]
        self.words[start:stop][better] = with_words[better]
        self.rows[start:stop][better] = first_known + columns[better]


class _BlockIndex:
    """The inverted indices of a block's 5-grams and words."""

    def __init__(self, block: Block) -> None:
        self._grams = _Index(block.grams)
        self._words = _Index(block.words)
        self._rows = len(block.keys)

    def compare(self, block: Block) -> Iterator[tuple[int, Floats, Floats]]:
        """Yield similarity matrices (block texts, indexed texts) for parts of the block.

        Each matrix comes after the index in the block of the part's first text.
        """
        step = max(1, _CELLS // self._rows)
        for start in range(0, len(block.keys), step):
            stop = min(start + step, len(block.keys))
            characters = self._grams.jaccard(block.grams, start, stop)
            yield start, characters, self._words.jaccard(block.words, start, stop)


class _Index:
    """Maps each number to the sets that contain it."""

    def __init__(self, sets: NumberSets) -> None:
        self._sizes = sets.sizes()
        rows = np.repeat(np.arange(len(sets)), self._sizes)
        order = np.argsort(sets.values, kind="stable")
        self._rows = rows[order]
        values = sets.values[order]
        first = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
        self._values = values[first]
        self._starts = np.append(first, len(rows))

    def jaccard(self, sets: NumberSets, start: int, stop: int) -> Floats:
        """Return the similarity of the sets from ``start`` to ``stop`` with all in the index."""
        sizes = sets.sizes()[start:stop]
        positions, found = self._lookup(sets.values[sets.offsets[start] : sets.offsets[stop]])
        starts = self._starts[positions]
        counts = self._starts[positions + 1] - starts
        known = len(self._sizes)
        cells = np.repeat(np.repeat(np.arange(stop - start), sizes)[found] * known, counts)
        cells += self._rows[_ranges(starts, counts)]
        shared = np.bincount(cells, minlength=len(sizes) * known).reshape(len(sizes), known)
        union = np.maximum(np.add.outer(sizes, self._sizes) - shared, 1)
        result: Floats = shared / union
        return result

    def _lookup(self, values: Numbers) -> tuple[Indices, Bits]:
        """Return the positions of values in the index, and a boolean mask of the values found."""
        positions = np.searchsorted(self._values, values)
        found = positions < len(self._values)
        found[found] = self._values[positions[found]] == values[found]
        return positions[found], found


def _ranges(starts: Indices, counts: Indices) -> Indices:
    """Return concatenated ranges of integers, each with the given start and count."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
