"""Choose few rows that stand for many: without near duplicates, and spread over all topics.

::

    from tunesmith_plugins.commands.data.selection import select_rows

    chosen = select_rows(PromptTexts(records), 500)
    [records[row] for row in chosen.rows]

Of each cluster of near duplicates, the first row is a candidate. If these are too few, all rows are
that do not equal an earlier one. Chosen are the candidates that
maximize the sum over all rows of the cosine to the most similar chosen row (facility location),
by stochastic greedy search (Mirzasoleiman and others, AAAI 2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith_data.coverage.vectors import sample_rows
from tunesmith_data.near_duplicates import Texts, cluster_texts
from tunesmith_data.splits import normalize_text
from tunesmith_data.vectors import Vectors, embed

MAX_CANDIDATES = 100_000
"""Rows that are compared; of more, a random sample is."""
MAX_REPRESENTED = 5_000
"""Rows whose similarity to the chosen ones is maximized; of more, a random sample is taken."""
MISS = 0.1
"""The probability that the best tenth of the candidates is not looked at in a step."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows that were chosen, and how well they stand for all."""

    rows: Sequence[int]
    """Positions of the chosen rows, in the order of the data."""
    equal: int
    """Rows that were skipped because they equal an earlier one, apart from case and spaces."""
    similar: int
    """Rows that were skipped because they resemble an earlier one; 0 if all are needed."""
    compared: int
    """Rows that could be chosen."""
    similarity: float
    """Mean cosine of a row to the most similar chosen one."""
    random_similarity: float
    """The same if as many rows are chosen at random from all."""


def select_rows(texts: Texts, count: int, *, seed: int = 0) -> Selection:
    """Choose ``count`` rows, or all that differ. The same texts give the same rows."""
    rng = np.random.default_rng(seed)
    equal = np.unique([normalize_text(text) for text in texts], return_index=True)[1]
    similar = np.unique(cluster_texts(texts), return_index=True)[1]
    distinct = similar if len(similar) >= count else equal
    candidates = sample_rows(rng, np.sort(distinct.astype(np.int64)), MAX_CANDIDATES)
    vectors = embed([texts[int(row)] for row in candidates])
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
    """Return the positions of the vectors to which those that they represent are similar."""
    left = rng.permutation(len(vectors))
    if count >= len(left):
        return [*map(int, left)]
    looked_at = min(len(left), math.ceil(len(left) / count * math.log(1 / MISS)))
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
    """Return the mean cosine to the most similar chosen vector."""
    blocks = np.array_split(represented, math.ceil(len(represented) / 500))
    return float(np.concatenate([(block @ chosen.T).max(axis=1) for block in blocks]).mean())
