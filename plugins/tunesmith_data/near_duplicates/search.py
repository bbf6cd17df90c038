"""Find near duplicates among texts, or between two lists of texts, and cluster them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tunesmith_data.near_duplicates import inverted_index, minhash
from tunesmith_data.near_duplicates.boilerplate import SAMPLE_ROWS, find_boilerplate
from tunesmith_data.near_duplicates.compare import compare_pairs
from tunesmith_data.near_duplicates.features import (
    Bits,
    Boilerplate,
    Floats,
    Hashes,
    Indices,
    Texts,
    read_keys,
)
from tunesmith_data.near_duplicates.forest import Forest
from tunesmith_data.near_duplicates.minhash import Rows
from tunesmith_data.near_duplicates.threshold import DEFAULT_THRESHOLD, Threshold

EXACT_STEPS = 100_000_000
"""Up to so many counting steps, about a second, all texts are compared with all; with more,
only those that MinHash proposes."""
EXACT_TEXTS = 20_000
MAX_ROUNDS = 8
"""The rounds in which clusters are joined; each at least halves the parts of a large cluster."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two near duplicates, by their positions: ``first`` is before ``second``."""

    first: int
    second: int
    characters: float
    """Jaccard similarity of the character 5-grams that are no boilerplate."""
    words: float
    """Jaccard similarity of the words; all numbers count as one word."""
    identical: bool = False
    """True if the letters and digits are the same, up to case."""


@dataclass(frozen=True, slots=True)
class Match:
    """The known text at position ``known`` that is most similar to a query."""

    known: int
    characters: float
    """Jaccard similarity of their character 5-grams, from 0 to 1."""
    words: float
    """Jaccard similarity of their words, from 0 to 1."""
    identical: bool = False


def find_pairs(texts: Texts, *, threshold: Threshold = DEFAULT_THRESHOLD) -> Iterator[Pair]:
    """Yield near duplicates that connect each cluster of them: one pair less than its texts.

    Not every pair of a cluster is yielded, which would be too many for the rows of one template.
    """
    groups = _Groups(read_keys(texts))
    for first, second in groups.identical():
        yield Pair(first, second, 1.0, 1.0, identical=True)
    rows = groups.rows
    boilerplate = _sampled_boilerplate(texts, groups)
    join = _Join(_Rows(texts, rows), boilerplate, threshold)
    if _is_small(len(rows), len(rows), boilerplate):
        found = _join_all(join)
    else:
        found = _join_proposed(join, groups.ranks)
    for one, other, characters, words in found:
        first, second = sorted((int(rows[one]), int(rows[other])))
        yield Pair(first, second, characters, words)


class _Join:
    """Joins near duplicates among different texts to clusters."""

    def __init__(self, texts: _Rows, boilerplate: Boilerplate, threshold: Threshold) -> None:
        self.texts = texts
        self.boilerplate = boilerplate
        self.threshold = threshold
        self.forest = Forest(len(texts))
        self.joined: list[tuple[int, int, float, float]] = []

    def add(self, firsts: Indices, seconds: Indices) -> tuple[Indices, Bits]:
        """Compare these pairs, and join those that are similar.

        Returns:
            The positions of the pairs that were not in one cluster before, and which of them are
            similar.
        """
        roots = self.forest.roots()
        compared = np.flatnonzero(roots[firsts] != roots[seconds])
        firsts, seconds = firsts[compared], seconds[compared]
        characters, words = compare_pairs(self.texts, firsts, self.texts, seconds, self.boilerplate)
        similar = self.threshold.accepts(characters, words)
        for i in np.flatnonzero(similar).tolist():
            one, other = int(firsts[i]), int(seconds[i])
            if self.forest.join(one, other):
                self.joined.append((one, other, float(characters[i]), float(words[i])))
        return compared, similar

    def take(self) -> list[tuple[int, int, float, float]]:
        """Return the pairs that joined two clusters since the last call."""
        joined, self.joined = self.joined, []
        return joined


def _join_all(join: _Join) -> Iterator[tuple[int, int, float, float]]:
    """Compare all texts with all."""
    for firsts, seconds in inverted_index.similar_pairs(
        join.texts, join.boilerplate, join.threshold
    ):
        join.add(firsts, seconds)
        yield from join.take()


def _join_proposed(join: _Join, ranks: Rows) -> Iterator[tuple[int, int, float, float]]:
    """Compare the texts that MinHash proposes, in rounds, until no clusters join.

    A text whose proposals are all rejected takes no part in later rounds, because its other ones
    are less similar.
    """
    sketches = minhash.sketch(join.texts, len(join.texts), join.boilerplate)
    active = np.ones(len(sketches), dtype=np.bool_)
    for _ in range(MAX_ROUNDS):
        roots = join.forest.roots()
        proposed = minhash.propose_within(sketches, ranks, join.threshold, roots, active)
        active &= proposed[:, 0] >= 0
        rejected = np.zeros(len(sketches), dtype=np.bool_)
        accepted = np.zeros(len(sketches), dtype=np.bool_)
        for column in proposed.T:
            firsts = np.flatnonzero(column >= 0)
            compared, similar = join.add(firsts, column[firsts])
            accepted[firsts[compared[similar]]] = True
            rejected[firsts[compared[~similar]]] = True
        active &= accepted | ~rejected
        joined = join.take()
        yield from joined
        if not joined:
            break


def cluster_texts(texts: Texts, *, threshold: Threshold = DEFAULT_THRESHOLD) -> Rows:
    """Return a label for each text, the position of the first text of its cluster.

    Texts are in one cluster if a chain of near duplicates connects them.
    """
    forest = Forest(len(texts))
    for pair in find_pairs(texts, threshold=threshold):
        forest.join(pair.first, pair.second)
    return forest.roots()


def find_nearest(
    known: Texts,
    queries: Texts,
    *,
    threshold: Threshold | None = DEFAULT_THRESHOLD,
) -> list[Match | None]:
    """Return for each query the most similar known text, None if none reaches the threshold.

    The similarity of 5-grams decides, then that of words. Without a threshold, every query that
    shares a 5-gram with a known text has a match; all are compared with all then, which takes
    about a second for 10,000 times 10,000 short texts.
    """
    keys = read_keys(known)
    groups = _Groups(keys)
    query_keys = read_keys(queries)
    matches: list[Match | None] = [None] * len(queries)
    identical = groups.find(keys, query_keys)
    del keys
    for query in np.flatnonzero(identical >= 0).tolist():
        matches[query] = Match(int(identical[query]), 1.0, 1.0, identical=True)
    query_rows = np.flatnonzero((identical < 0) & (query_keys > 0))
    if not len(query_rows) or not len(groups.rows):
        return matches
    boilerplate = _sampled_boilerplate(known, groups)
    texts, others = _Rows(known, groups.rows), _Rows(queries, query_rows)
    if threshold is None or _is_small(len(texts), len(others), boilerplate):
        found = inverted_index.nearest(texts, others, boilerplate, threshold)
    else:
        found = _nearest_proposed(texts, others, groups.ranks, boilerplate, threshold)
    for query, characters, words, row in zip(query_rows.tolist(), *found, strict=True):
        if row >= 0:
            matches[query] = Match(int(groups.rows[row]), float(characters), float(words))
    return matches


def _nearest_proposed(
    known: _Rows, queries: _Rows, ranks: Rows, boilerplate: Boilerplate, threshold: Threshold
) -> tuple[Floats, Floats, Indices]:
    """Return what :func:`inverted_index.nearest` does, of the texts that MinHash proposes."""
    proposed = minhash.propose_between(
        minhash.sketch(known, len(known), boilerplate),
        minhash.sketch(queries, len(queries), boilerplate),
        ranks,
        threshold,
    )
    best = np.zeros((2, len(queries)))
    nearest = np.full(len(queries), -1)
    for column in proposed.T:
        query_rows = np.flatnonzero(column >= 0)
        rows = column[query_rows]
        found = np.stack(compare_pairs(known, rows, queries, query_rows, boilerplate))
        old = best[:, query_rows]
        better = threshold.accepts(*found) & (
            (found[0] > old[0])
            | (found[0] == old[0])
            & ((found[1] > old[1]) | (found[1] == old[1]) & (rows < nearest[query_rows]))
        )
        best[:, query_rows[better]] = found[:, better]
        nearest[query_rows[better]] = rows[better]
    return best[0], best[1], nearest


def _is_small(known: int, queries: int, boilerplate: Boilerplate) -> bool:
    if max(known, queries) > EXACT_TEXTS:
        return False
    return known * queries * (1 + boilerplate.shared_grams) <= EXACT_STEPS


def _sampled_boilerplate(texts: Texts, groups: _Groups) -> Boilerplate:
    """Return the boilerplate of a sample of texts that depends on their content only."""
    chosen = np.sort(groups.rows[groups.ranks < SAMPLE_ROWS])
    return find_boilerplate(texts[row] for row in chosen.tolist())


class _Groups:
    """Texts grouped by equal keys; those without a key, which have no content, are in no group."""

    def __init__(self, keys: Hashes) -> None:
        order = np.argsort(keys, kind="stable").astype(np.int32)
        order = order[keys[order] > 0]
        starts = np.ones(len(order), dtype=np.bool_)
        starts[1:] = keys[order[1:]] != keys[order[:-1]]
        self._order, self._starts = order, starts
        first = order[starts]
        by_row = np.argsort(first).astype(np.int32)
        self.rows: Rows = first[by_row]
        """The first text of each group, ascending."""
        self.ranks: Rows = by_row
        """The rank of each group's key among the keys: an order that only depends on content."""

    def identical(self) -> Iterator[tuple[int, int]]:
        """Yield the first text of each group with each other text of it."""
        firsts = self._order[self._starts]
        numbers = np.cumsum(self._starts) - 1
        for position in np.flatnonzero(~self._starts).tolist():
            yield int(firsts[numbers[position]]), int(self._order[position])

    def find(self, keys: Hashes, others: Hashes) -> Indices:
        """Return the first text of the group with each of the ``others``, -1 if there is none.

        ``keys`` are those that this object was made of.
        """
        firsts = self._order[self._starts]
        if not len(firsts):
            return np.full(len(others), -1)
        sorted_keys = keys[firsts]
        positions = np.minimum(np.searchsorted(sorted_keys, others), len(firsts) - 1)
        return np.where(sorted_keys[positions] == others, firsts[positions], -1)


class _Rows:
    """Some of the texts, without a copy."""

    def __init__(self, texts: Texts, rows: Indices | Rows) -> None:
        self._texts = texts
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:
        return self._texts[int(self._rows[index])]

    def __iter__(self) -> Iterator[str]:
        return (self._texts[int(row)] for row in self._rows)
