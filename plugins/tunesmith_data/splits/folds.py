"""Folds: parts of few training rows, of which each is left out once, to choose by."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["MAX_FOLDED"]

FOLDS = 5
MAX_FOLDED = 1_000
"""Training rows up to which choices are made out of fold if there are no validation rows."""


def make_folds(rows: Sequence[int], clusters: Sequence[int], seed: int) -> list[list[int]]:
    """Return the rows of each fold: at most five, of similar size, none with a part of a cluster.

    With rows of one cluster only, or with many rows, there is no fold.

    Args:
        rows: numbers of the training records.
        clusters: the cluster of each record, by its number; their order decides, with the seed.
    """
    if len(rows) > MAX_FOLDED:
        return []
    members: dict[int, list[int]] = {}
    for row in rows:
        members.setdefault(clusters[row], []).append(row)
    parts = [members[cluster] for cluster in sorted(members)]
    random.Random(f"{seed}/folds").shuffle(parts)
    folds: list[list[int]] = [[] for _ in range(min(FOLDS, len(parts)))]
    for part in sorted(parts, key=len, reverse=True):
        min(folds, key=len).extend(part)
    return [sorted(fold) for fold in folds] if len(parts) > 1 else []
