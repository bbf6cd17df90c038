"""Create folds of the training rows, for cross-validation in small data."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["MAX_FOLD_ROWS"]

FOLDS = 5
MAX_FOLD_ROWS = 1_000
"""Maximum number of training rows to cross-validate on if there are no validation rows."""


def make_folds(rows: Sequence[int], clusters: Sequence[int], seed: int) -> list[list[int]]:
    """Divide rows into at most five folds of similar size, keeping clusters together.

    Args:
        rows: indices of the training records.
        clusters: the cluster of each record, by record index.
        seed: seed for shuffling the clusters.

    Returns:
        The rows of each fold; the result is empty if there is only one cluster or if there are too
        many rows.
    """
    if len(rows) > MAX_FOLD_ROWS:
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
