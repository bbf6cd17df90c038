"""Find near-duplicates in a list of texts or between two lists, and cluster them."""

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
    compute_text_keys,
)
from tunesmith_data.near_duplicates.forest import DisjointSets
from tunesmith_data.near_duplicates.minhash import Rows
from tunesmith_data.near_duplicates.threshold import DEFAULT_THRESHOLD, Threshold

MAX_EXACT_STEPS = 100_000_000
"""Maximum number of counting steps (about a second) for comparing all pairs of texts. If more are
needed, only pairs proposed by MinHash are compared."""
MAX_EXACT_TEXTS = 20_000
MAX_ROUNDS = 8
"""Maximum number of merging rounds; each one at least halves the number of parts of a cluster."""


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two near-duplicates of a list of texts."""

    first: int
    """Index of the earlier text."""
    second: int
    """Index of the later text."""
    characters: float
    """Jaccard similarity of the character 5-grams, without boilerplate."""
    words: float
    """Jaccard similarity of the words, where all numbers count as the same word."""
    identical: bool = False
    """True if letters, digits and symbols are the same, ignoring case."""


@dataclass(frozen=True, slots=True)
class NearestText:
    """The known text that is most similar to a query; ``known`` is its index."""

    known: int
    characters: float
    """Jaccard similarity of the character 5-grams, from 0 to 1."""
    words: float
    """Jaccard similarity of the words, from 0 to 1."""
    identical: bool = False


def find_pairs(
    texts: Texts, *, threshold: Threshold = DEFAULT_THRESHOLD
) -> Iterator[DuplicatePair]:
    """Yield pairs of near-duplicates that connect each cluster, n - 1 pairs for n texts.

    All pairs of a cluster would be too many if rows come from one template.
    """
    groups = _Groups(compute_text_keys(texts))
    for first, second in groups.identical():
        yield DuplicatePair(first, second, 1.0, 1.0, identical=True)
    rows = groups.rows
    boilerplate = _sampled_boilerplate(texts, groups)
    join = _Join(_Rows(texts, rows), boilerplate, threshold)
    if _is_small(len(rows), len(rows), boilerplate):
        found = _join_all(join)
    else:
        found = _join_proposed(join, groups.ranks)
    for one, other, characters, words in found:
        first, second = sorted((int(rows[one]), int(rows[other])))
        yield DuplicatePair(first, second, characters, words)


class _Join:
    """Merges near-duplicates among distinct texts into clusters."""

    def __init__(self, texts: _Rows, boilerplate: Boilerplate, threshold: Threshold) -> None:
        self.texts = texts
        self.boilerplate = boilerplate
        self.threshold = threshold
        self.forest = DisjointSets(len(texts))
        self.joined: list[tuple[int, int, float, float]] = []

    def add(self, firsts: Indices, seconds: Indices) -> tuple[Indices, Bits]:
        """Compare pairs of texts and merge the clusters of similar texts.

        Returns:
            Indices of the compared pairs (pairs already in the same cluster are skipped), and a
            boolean mask over them of the similar ones.
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
        """Return the pairs that have merged two clusters since the last call."""
        joined, self.joined = self.joined, []
        return joined


def _join_all(join: _Join) -> Iterator[tuple[int, int, float, float]]:
    """Compare all pairs of texts; yield each pair that merges two clusters, with similarities."""
    for firsts, seconds in inverted_index.find_similar_pairs(
        join.texts, join.boilerplate, join.threshold
    ):
        join.add(firsts, seconds)
        yield from join.take()


def _join_proposed(join: _Join, ranks: Rows) -> Iterator[tuple[int, int, float, float]]:
    """Compare pairs proposed by MinHash, in rounds, until no more clusters merge.

    A text drops out once all its proposals are rejected, because later proposals are less similar.
    """
    sketches = minhash.compute_sketches(join.texts, len(join.texts), join.boilerplate)
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
    """Return a cluster label for each text: the index of the first text in its cluster.

    Texts belong to the same cluster if a chain of near-duplicates connects them.
    """
    forest = DisjointSets(len(texts))
    for pair in find_pairs(texts, threshold=threshold):
        forest.join(pair.first, pair.second)
    return forest.roots()


def find_nearest(
    known: Texts,
    queries: Texts,
    *,
    threshold: Threshold | None = DEFAULT_THRESHOLD,
) -> list[NearestText | None]:
    """Return the most similar known text for each query, or None if none reaches the threshold.

    Texts are ranked by the similarity of their 5-grams; ties are broken by the similarity of their
    words. Without a threshold, every query that shares a 5-gram with a known text has a match. All
    pairs are then compared, which takes about a second for 10,000 queries and 10,000 short known
    texts.
    """
    keys = compute_text_keys(known)
    groups = _Groups(keys)
    query_keys = compute_text_keys(queries)
    matches: list[NearestText | None] = [None] * len(queries)
    identical = groups.find(keys, query_keys)
    del keys
    for query in np.flatnonzero(identical >= 0).tolist():
        matches[query] = NearestText(int(identical[query]), 1.0, 1.0, identical=True)
    query_rows = np.flatnonzero((identical < 0) & (query_keys > 0))
    if not len(query_rows) or not len(groups.rows):
        return matches
    boilerplate = _sampled_boilerplate(known, groups)
    texts, others = _Rows(known, groups.rows), _Rows(queries, query_rows)
    if threshold is None or _is_small(len(texts), len(others), boilerplate):
        found = inverted_index.find_nearest_texts(texts, others, boilerplate, threshold)
    else:
        found = _nearest_proposed(texts, others, groups.ranks, boilerplate, threshold)
    for query, characters, words, row in zip(query_rows.tolist(), *found, strict=True):
        if row >= 0:
            matches[query] = NearestText(int(groups.rows[row]), float(characters), float(words))
    return matches


def _nearest_proposed(
    known: _Rows, queries: _Rows, ranks: Rows, boilerplate: Boilerplate, threshold: Threshold
) -> tuple[Floats, Floats, Indices]:
    """Search only texts that MinHash proposes; see :func:`inverted_index.find_nearest_texts`."""
    proposed = minhash.propose_between(
        minhash.compute_sketches(known, len(known), boilerplate),
        minhash.compute_sketches(queries, len(queries), boilerplate),
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
    if max(known, queries) > MAX_EXACT_TEXTS:
        return False
    return known * queries * (1 + boilerplate.shared_grams) <= MAX_EXACT_STEPS


def _sampled_boilerplate(texts: Texts, groups: _Groups) -> Boilerplate:
    """Find boilerplate in a sample of the texts, which is chosen by their content alone."""
    chosen = np.sort(groups.rows[groups.ranks < SAMPLE_ROWS])
    return find_boilerplate(texts[row] for row in chosen.tolist())


class _Groups:
    """Texts grouped by equal keys; texts without content have neither key nor group."""

    def __init__(self, keys: Hashes) -> None:
        order = np.argsort(keys, kind="stable").astype(np.int32)
        order = order[keys[order] > 0]
        starts = np.ones(len(order), dtype=np.bool_)
        starts[1:] = keys[order[1:]] != keys[order[:-1]]
        self._order, self._starts = order, starts
        first = order[starts]
        by_row = np.argsort(first).astype(np.int32)
        self.rows: Rows = first[by_row]
        """The first text of each group, in ascending order."""
        self.ranks: Rows = by_row
        """The rank of each group's key, in an order that depends only on content."""

    def identical(self) -> Iterator[tuple[int, int]]:
        """Yield the first text of each group, paired with every other text of the group."""
        firsts = self._order[self._starts]
        numbers = np.cumsum(self._starts) - 1
        for position in np.flatnonzero(~self._starts).tolist():
            yield int(firsts[numbers[position]]), int(self._order[position])

    def find(self, keys: Hashes, others: Hashes) -> Indices:
        """Return the first text of the group of each key in ``others``, or -1 if it has no group.

        ``keys`` must be the keys that this object was built from.
        """
        firsts = self._order[self._starts]
        if not len(firsts):
            return np.full(len(others), -1)
        sorted_keys = keys[firsts]
        positions = np.minimum(np.searchsorted(sorted_keys, others), len(firsts) - 1)
        return np.where(sorted_keys[positions] == others, firsts[positions], -1)


class _Rows:
    """A view of some of the texts, without copying them."""

    def __init__(self, texts: Texts, rows: Indices | Rows) -> None:
        self._texts = texts
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:
        return self._texts[int(self._rows[index])]

    def __iter__(self) -> Iterator[str]:
        return (self._texts[int(row)] for row in self._rows)
