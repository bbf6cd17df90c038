"""Propose pairs of texts that may be similar, by MinHash and locality-sensitive hashing.

Under a random permutation, two sets have the same minimum with probability J, their Jaccard
similarity (Broder, 1997). The sketch of a text has one byte of each minimum: 48 for its 5-grams and
36 for its words. Three consecutive minima form a band. Two texts are candidates if any of their
bands is equal::

    text A   [17 203 88] [ 4 91 12] [55 230 7] ...
    text B   [17 203 88] [66 91 40] [55 18  7] ...
              equal band: candidates

This happens with probability 1 - (1 - J**3)**bands, which is 99.9 % at the default thresholds (J =
0.7 with 16 bands of 5-grams, J = 0.75 with 12 bands of words). Candidates whose sketches differ too
much are dropped. The caller must compare the remaining candidates exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from math import ceil, sqrt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tunesmith_data.near_duplicates.features import (
    Bits,
    Boilerplate,
    Hashes,
    Indices,
    Numbers,
    NumberSets,
    read_blocks,
)
from tunesmith_data.near_duplicates.threshold import Threshold

GRAM_MINIMA = 48
WORD_MINIMA = 36
MINIMA = GRAM_MINIMA + WORD_MINIMA
BAND = 3
WINDOW = 8
"""Number of following texts with an equal band that each text is compared with. In a large family
of similar texts, each text is similar enough to some of these."""
MAX_PROPOSALS = 4
"""Number of texts to propose for each text: those with the most similar sketches."""

_DEVIATIONS = 3.0  # A sketch misses one in a thousand similar pairs.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_CHUNK = 1 << 14  # pairs of sketches to compare per batch

Sketches: TypeAlias = npt.NDArray[np.uint8]
Rows: TypeAlias = npt.NDArray[np.int32]


def compute_sketches(texts: Iterable[str], count: int, boilerplate: Boilerplate) -> Sketches:
    """Return the sketches of ``count`` texts, with the shape (count, 84) in bytes."""
    sketches = np.empty((count, MINIMA), dtype=np.uint8)
    first = 0
    for block in read_blocks(texts, boilerplate):
        stop = first + len(block.keys)
        _sketch_sets(block.grams, sketches[first:stop, :GRAM_MINIMA], 0, block.keys)
        _sketch_sets(block.words, sketches[first:stop, GRAM_MINIMA:], GRAM_MINIMA, block.keys)
        first = stop
    return sketches


def propose_within(
    sketches: Sketches, ranks: Rows, threshold: Threshold, roots: Rows, active: Bits
) -> Rows:
    """Propose up to four similar texts for each active text, the best first.

    Args:
        sketches: the sketches of all texts.
        ranks: order of texts with an equal band; later texts are proposed for earlier ones.
        threshold: the minimum similarities; hopeless pairs are dropped.
        roots: cluster of each text; texts in the same cluster are not proposed.
        active: boolean mask of the texts to find proposals for.

    Returns:
        Indices of the proposed texts, (texts, 4); -1 where there are fewer than four.
    """
    best = _Best(len(sketches))
    for band in range(MINIMA // BAND):
        keys, rows = _sorted(_keys(sketches, band), ranks)
        for distance in range(1, WINDOW + 1):
            equal = np.flatnonzero(keys[distance:] == keys[:-distance])
            if not len(equal):
                break
            firsts, seconds = rows[equal], rows[equal + distance]
            is_open = active[firsts] & (roots[firsts] != roots[seconds])
            firsts, seconds = firsts[is_open], seconds[is_open]
            best.add(firsts, seconds, _score(sketches, firsts, sketches, seconds, threshold))
    return best.rows()


def propose_between(known: Sketches, queries: Sketches, ranks: Rows, threshold: Threshold) -> Rows:
    """Propose up to four known texts for each query, the best first; -1 if there are fewer."""
    best = _Best(len(queries))
    for band in range(MINIMA // BAND):
        keys, rows = _sorted(_keys(known, band), ranks)
        query_keys = _keys(queries, band)
        starts = np.searchsorted(keys, query_keys)
        counts = np.searchsorted(keys, query_keys, side="right") - starts
        for distance in range(min(WINDOW, int(counts.max(initial=0)))):
            query_rows = np.flatnonzero(counts > distance)
            known_rows = rows[starts[query_rows] + distance]
            scores = _score(known, known_rows, queries, query_rows, threshold)
            best.add(query_rows, known_rows, scores)
    return best.rows()


class _Best:
    """The best proposals so far for each text."""

    def __init__(self, texts: int) -> None:
        self._rows = np.full((texts, MAX_PROPOSALS), -1, dtype=np.int32)
        self._scores = np.zeros((texts, MAX_PROPOSALS), dtype=np.uint8)

    def add(self, texts: Indices, proposed: Indices, scores: Indices) -> None:
        """Add one proposal for each of these distinct texts, unless its score is too low."""
        texts, proposed, scores = texts[scores > 0], proposed[scores > 0], scores[scores > 0]
        worst = self._scores[texts].argmin(axis=1)
        better = scores > self._scores[texts, worst]
        better &= (self._rows[texts] != proposed[:, None]).all(axis=1)
        self._rows[texts[better], worst[better]] = proposed[better]
        self._scores[texts[better], worst[better]] = scores[better]

    def rows(self) -> Rows:
        """Return the proposals for each text, the best first; -1 if there are fewer."""
        order = np.argsort(~self._scores, axis=1, kind="stable")
        return np.take_along_axis(self._rows, order, axis=1)


def _keys(sketches: Sketches, band: int) -> Numbers:
    keys = np.zeros(len(sketches), dtype=np.uint32)
    for column in range(band * BAND, (band + 1) * BAND):
        keys = (keys << np.uint32(8)) | sketches[:, column]
    return keys


def _sorted(keys: Numbers, ranks: Rows) -> tuple[Numbers, Indices]:
    """Sort keys, breaking ties by rank, and return them with their rows."""
    order = np.argsort((keys.astype(np.uint64) << np.uint64(32)) | ranks.astype(np.uint64))
    return keys[order], order


def _score(
    one: Sketches, firsts: Indices, other: Sketches, seconds: Indices, threshold: Threshold
) -> Indices:
    """Return the number of equal minima of each pair, or 0 if it is surely below the threshold."""
    characters = _least(GRAM_MINIMA, threshold.characters)
    with_words = _least(GRAM_MINIMA, threshold.characters_with_words)
    words = _least(WORD_MINIMA, threshold.words)
    scores = np.empty(len(firsts), dtype=np.int64)
    for start in range(0, len(firsts), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        equal = one[firsts[chunk]] == other[seconds[chunk]]
        equal_grams = equal[:, :GRAM_MINIMA].sum(axis=1)
        equal_words = equal[:, GRAM_MINIMA:].sum(axis=1)
        similar = (equal_grams >= characters) | (
            (equal_grams >= with_words) & (equal_words >= words)
        )
        scores[chunk] = np.where(similar, equal_grams + equal_words, 0)
    return scores


def _least(count: int, similarity: float) -> int:
    """Return the number of equal minima that a similar pair reaches almost surely."""
    return ceil(count * similarity - _DEVIATIONS * sqrt(count * similarity * (1 - similarity)))


def _sketch_sets(sets: NumberSets, sketches: Sketches, first_minimum: int, keys: Hashes) -> None:
    """Write one byte per minimum of each set; ``keys`` are the keys of the texts."""
    sizes = sets.sizes()
    nonempty, empty = np.flatnonzero(sizes), np.flatnonzero(sizes == 0)
    starts = sets.offsets[nonempty]
    hashed = np.empty_like(sets.values)
    # Texts with an empty set must not match each other, so each one gets unique bytes.
    numbers = keys[empty]
    for column in range(sketches.shape[1]):
        mask, multiplier = _permutation(first_minimum + column)
        if len(empty):
            mixed = _mix(numbers + multiplier) >> np.uint64(32)
            sketches[empty, column] = mixed.astype(np.uint8)
        if len(nonempty):
            np.bitwise_xor(sets.values, mask, out=hashed)
            np.multiply(hashed, multiplier, out=hashed)
            sketches[nonempty, column] = np.minimum.reduceat(hashed, starts).astype(np.uint8)


@cache
def _permutation(number: int) -> tuple[np.uint32, np.uint32]:
    """Return the mask and multiplier of the permutation x -> (x ^ mask) * multiplier on 32 bits."""
    seeds = _mix(np.array([2 * number + 1, 2 * number + 2], dtype=np.uint64))
    mask, multiplier = (seeds >> np.uint64(32)).astype(np.uint32)
    return mask, multiplier | np.uint32(1)


def _mix(numbers: Hashes) -> Hashes:
    mixed = (numbers ^ (numbers >> np.uint64(31))) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    result: Hashes = mixed * _MULTIPLIER
    return result
