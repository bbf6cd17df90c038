"""Measure which rows lie outside the training rows, and choose some of them to label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.encoders import Encoder
from tunesmith.errors import DataError
from tunesmith_data.coverage.share import (
    LEVEL,
    MIN_REFERENCE_ROWS,
    Reference,
    ShareEstimate,
    compute_p_values,
    estimate_share,
    find_distance_threshold,
)
from tunesmith_data.coverage.vectors import (
    COLUMNS,
    EncoderVectors,
    Vectorizer,
    Vectors,
    sample_rows,
)
from tunesmith_data.near_duplicates import Texts, cluster_texts, find_nearest
from tunesmith_data.near_duplicates.features import Floats, Indices

MAX_REFERENCE = 2_000
MAX_QUERIES = 4_000
"""Maximum number of rows to compare with the training rows; more are sampled at random."""
MIN_ALONE_SHARE = 0.2
"""Minimum share of clusters with a single row for which these rows alone serve as the reference."""
MAX_CHOSEN_ROWS = 20
MIN_GAP = 0.5
"""Minimum distance of a chosen row from all other chosen rows and from the training rows. With an
encoder, it is the distance beyond which rows count as outside."""


@dataclass(frozen=True, slots=True)
class FarRow:
    """A row that is far from the training rows."""

    row: int
    """Index of the row in the production rows."""
    nearest: int
    """Index of the most similar training row."""
    similarity: float
    """Cosine similarity of the two rows, from 0 to 1."""
    p_value: float
    """Probability that a row like the training rows has at least this distance to the others."""
    similar_rows: int
    """Number of outside rows whose nearest chosen row is this one, including this one."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The comparison of rows from another source with the training rows."""

    train_rows: int
    """Number of training rows."""
    rows: int
    """Number of rows in the other source."""
    compared_rows: int
    """Number of compared rows; smaller than ``rows`` if they were sampled."""
    near_duplicates: int
    """Number of compared rows that have a near-duplicate in the training rows."""
    outside: int
    """Number of compared rows with a p-value of at most 0.05, which includes some false alarms."""
    share: ShareEstimate
    similarity_limit: float
    """Rows count as outside if their similarity to every training row is below this value."""
    is_blind: bool
    """True if training rows are so diverse that even unrelated rows may not count as outside."""
    chosen: Sequence[FarRow]


def measure_coverage(
    train: Texts, production: Texts, *, seed: int = 0, encoder: Encoder | None = None
) -> Coverage:
    """Compare production rows with training rows.

    The distance of a row is 1 minus its cosine similarity to the nearest training row, by the
    character n-grams of the texts or by the vectors of an encoder. The reference is the same
    distance for up to 2,000 training rows, measured to the nearest row outside their cluster of
    near-duplicates. Without this exclusion, duplicated rows would look like perfect coverage.

    Raises:
        DataError: there are too few distinct training rows, or no production rows.
    """
    rng = np.random.default_rng(seed)
    clusters = cluster_texts(train).astype(np.int64)
    sample = sample_rows(rng, _choose_reference(clusters), MAX_REFERENCE)
    queries = sample_rows(rng, np.arange(len(production)), MAX_QUERIES)
    if len(sample) < MIN_REFERENCE_ROWS:
        hint = f"coverage needs at least {MIN_REFERENCE_ROWS} training rows without near-duplicates"
        raise DataError(
            "training rows", f"only {len(sample)} rows differ from each other", hint=hint
        )
    if not len(queries):
        raise DataError(
            "production rows",
            "there are no rows to compare",
            hint="check the file of production prompts",
        )
    texts = [production[int(row)] for row in queries]
    vectorizer = EncoderVectors(encoder) if encoder else Vectorizer(train, texts)
    search = _Search(vectorizer.vectors([*(train[int(row)] for row in sample), *texts]))
    own = np.concatenate([clusters[sample], np.full(len(queries), -1)])
    search.run(vectorizer, train, clusters, own)
    reference, distances = np.split(search.distances(), [len(sample)])
    groups = _join_pairs(clusters[sample], clusters[search.rows[: len(sample)]])
    covered = np.array([match is not None for match in find_nearest(train, texts)])
    p = np.where(covered, 1.0, compute_p_values(distances, reference))
    outside = np.flatnonzero(p <= LEVEL)
    limit = find_distance_threshold(reference, LEVEL)
    chosen, counts = _choose(
        search.vectors[len(sample) :][outside],
        distances[outside],
        limit if encoder else MIN_GAP,
    )
    rows = [
        FarRow(
            int(queries[i]),
            int(search.rows[len(sample) + i]),
            1 - float(distances[i]),
            float(p[i]),
            count,
        )
        for i, count in zip(outside[chosen].tolist(), counts, strict=True)
    ]  # fmt: skip
    return Coverage(
        train_rows=len(train),
        rows=len(production),
        compared_rows=len(queries),
        near_duplicates=int(covered.sum()),
        outside=len(outside),
        share=estimate_share(distances, covered, Reference(reference, groups)),
        similarity_limit=1 - limit,
        is_blind=encoder is None and 1 - limit < _chance_similarity(len(train)),
        chosen=rows,
    )


def _choose_reference(clusters: Indices) -> Indices:
    """Return the training rows that have no near-duplicates, like uncovered production rows.

    If nearly all rows have near-duplicates, return one row per cluster instead.
    """
    firsts, counts = np.unique(clusters, return_counts=True)
    alone = firsts[counts == 1]
    return alone if len(alone) >= max(MIN_REFERENCE_ROWS, MIN_ALONE_SHARE * len(firsts)) else firsts


class _Search:
    """Finds the most similar training row for each vector."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.rows = np.full(len(vectors), -1, dtype=np.int64)
        self._similarities = np.full(len(vectors), -1.0)

    def run(
        self, vectorizer: Vectorizer | EncoderVectors, train: Texts, clusters: Indices, own: Indices
    ) -> None:
        """Compare vectors with all training rows except those in the vector's own cluster."""
        start = 0
        for block in vectorizer.blocks(train):
            labels = clusters[start : start + len(block)]
            found = self.vectors @ block.T
            found[own[:, None] == labels] = -1
            columns = found.argmax(axis=1)
            values = found[np.arange(len(found)), columns]
            better = values > self._similarities
            self._similarities[better] = values[better]
            self.rows[better] = start + columns[better]
            start += len(block)

    def distances(self) -> Floats:
        """Return each text's distance to its most similar training row; 0 for pure boilerplate."""
        distances = np.clip(1 - self._similarities, 0, 1)
        return np.where(self.vectors.any(axis=1), distances, 0.0)


def _join_pairs(clusters: Indices, nearest: Indices) -> Indices:
    """Return a label for each row; two rows that are each other's nearest share a label.

    Args:
        clusters: The cluster of each row; all are distinct.
        nearest: The cluster of each row's nearest row, which may not be among ``clusters``.
    """
    nearest_of = dict(zip(clusters.tolist(), nearest.tolist(), strict=True))
    is_pair = np.array([nearest_of.get(other) == own for own, other in nearest_of.items()])
    return np.where(is_pair, np.minimum(clusters, nearest), clusters)


def _chance_similarity(rows: int) -> float:
    """Return the highest cosine between a text and many rows due to hash collisions alone."""
    return math.sqrt(2 * math.log(max(2, rows)) / COLUMNS)


def _choose(vectors: Vectors, distances: Floats, min_gap: float) -> tuple[list[int], list[int]]:
    """Choose rows that are at least ``min_gap`` from the training rows and from each other.

    Farthest-first traversal (Gonzalez, 1985): each step takes the row with the largest distance to
    the nearest training row or chosen row.

    Returns:
        The indices of the chosen rows, and how many rows each one represents.
    """
    gaps = distances.copy()
    chosen: list[int] = []
    while len(chosen) < MAX_CHOSEN_ROWS and len(gaps) and gaps.max() >= min_gap:
        chosen.append(int(gaps.argmax()))
        gaps = np.minimum(gaps, 1 - vectors @ vectors[chosen[-1]])
        gaps[chosen[-1]] = 0
    if not chosen:
        return [], []
    nearest = (vectors @ vectors[chosen].T).argmax(axis=1)
    return chosen, np.bincount(nearest, minlength=len(chosen)).tolist()
