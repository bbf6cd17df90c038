"""Select a small, representative subset of rows: no near-duplicates, and all topics covered.

::

    from tunesmith_plugins.commands.data.selection import select_rows

    chosen = select_rows(PromptTexts(records), 500)
    [records[row] for row in chosen.rows]

The first row of each cluster of near-duplicates is a candidate. If there are too few clusters, all
rows that do not equal an earlier one are candidates. Stochastic greedy search (Mirzasoleiman et
al., AAAI 2015) selects the candidates that maximize the sum, over all candidates, of the cosine to
the most similar selected row (facility location).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith_data.coverage.vectors import sample_rows
from tunesmith_data.near_duplicates import Texts, cluster_texts
from tunesmith_data.splits import normalize_text
from tunesmith_data.vectors import Vectors, fit_text_vectors

MAX_CANDIDATES = 100_000
"""Maximum number of candidates; more are reduced to a random sample."""
MAX_REPRESENTED = 5_000
"""Maximum number of rows whose similarity to the selected rows is maximized; more are sampled."""
MISS_PROBABILITY = 0.1
"""Probability that a greedy step considers none of the ``count`` best candidates."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected rows, and how well they cover the rows that could have been selected."""

    rows: Sequence[int]
    """Indices of the selected rows, in ascending order."""
    equal: int
    """Number of skipped rows that equal an earlier one, apart from case and white space."""
    similar: int
    """Number of skipped near-duplicates of an earlier row, or 0 if they had to be used."""
    compared: int
    """Number of candidates that rows were selected from."""
    similarity: float
    """Mean cosine similarity of a candidate to the most similar selected row."""
    random_similarity: float
    """Mean cosine similarity if as many candidates were selected at random."""


def select_rows(texts: Texts, count: int, *, seed: int = 0) -> Selection:
    """Select ``count`` rows, or all distinct rows if there are fewer."""
    rng = np.random.default_rng(seed)
    equal = np.unique([normalize_text(text) for text in texts], return_index=True)[1]
    similar = np.unique(cluster_texts(texts), return_index=True)[1]
    distinct = similar if len(similar) >= count else equal
    candidates = sample_rows(rng, np.sort(distinct.astype(np.int64)), MAX_CANDIDATES)
    vectors = fit_text_vectors([texts[int(row)] for row in candidates])
    represented = vectors[sample_rows(rng, np.arange(len(candidates)), MAX_REPRESENTED)]
    chosen = _cover(vectors, represented, count, rng)
    others = rng.choice(len(candidates), min(count, len(candidates)), replace=False)
    return Selection(
        rows=np.sort(candidates[chosen]).tolist(),
        equal=len(texts) - len(equal),
        similar=len(equal) - len(distinct),
        compared=len(candidates),
        similarity=_similarity(represented, vectors[chosen]),
        random_similarity=_similarity(represented, vectors[others]),
    )


def _cover(
    vectors: Vectors, represented: Vectors, count: int, rng: np.random.Generator
) -> Sequence[int]:
    """Return the indices of the vectors that best cover the represented vectors."""
    left = rng.permutation(len(vectors))
    if count >= len(left):
        return [*map(int, left)]
    looked_at = min(len(left), math.ceil(len(left) / count * math.log(1 / MISS_PROBABILITY)))
    best = np.zeros(len(represented), np.float32)
    chosen: list[int] = []
    while len(chosen) < count:
        at = rng.choice(len(left), min(looked_at, len(left)), replace=False)
        found = represented @ vectors[left[at]].T
        gains = np.maximum(found - best[:, None], 0).sum(axis=0)
        winner = int(gains.argmax())
        chosen.append(int(left[at[winner]]))
        best = np.maximum(best, found[:, winner])
        left[at[winner]] = left[-1]
        left = left[:-1]
    return chosen


def _similarity(represented: Vectors, chosen: Vectors) -> float:
    """Return the mean cosine similarity of represented vectors to their nearest chosen one."""
    blocks = np.array_split(represented, math.ceil(len(represented) / 500))
    return float(np.concatenate([(block @ chosen.T).max(axis=1) for block in blocks]).mean())
