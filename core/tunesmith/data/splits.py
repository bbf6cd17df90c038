"""Split records into training and held-out parts without leaks.

A held-out score is meaningful only if the model was not trained on the same records. So records
with the same content, and records of one group, always go to the same part. The split depends on
the content of the records, not on their order. This module has pure functions over texts, and uses
only the standard library.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite


@dataclass(frozen=True)
class SplitIndices:
    """Ascending indices of the records of both parts; each record is in exactly one part."""

    train: tuple[int, ...]
    heldout: tuple[int, ...]


@dataclass(frozen=True)
class _Cluster:
    """Records that must go to the same part."""

    rank: bytes  # a hash of content and seed: clusters are held out in ascending order of it
    rows: tuple[int, ...]
    stratum: str | None


def split_records(
    keys: Sequence[str],
    *,
    holdout: float | int,
    seed: int,
    groups: Sequence[str | None] | None = None,
    strata: Sequence[str | None] | None = None,
) -> SplitIndices:
    """Hold out a share (float below 1) or a count (int) of the records.

    Two records with the same normalized key are duplicates; a key is normally the record's text.
    Duplicates, and records of the same group (None is no group), stay together. With `strata`
    (labels), the same share of each label is held out, to within one row if no rows have to stay
    together. The size is exact if the clusters permit it, and as close as possible otherwise.

    Adding records moves few others, because the order of records is a hash of their content.

    Raises:
        ValueError: nothing to split, or one part would be empty. The message does not name the
            option, which the caller knows.
    """
    size = _parse_holdout(holdout, len(keys))
    _check_labels("groups", groups, len(keys))
    _check_labels("strata", strata, len(keys))
    clusters = sorted(_build_clusters(keys, seed, groups, strata), key=lambda c: c.rank)
    if len(clusters) == 1:
        raise ValueError(
            f"cannot split, all {len(keys)} records are duplicates of each other or in one group"
        )
    chosen: list[_Cluster] = []
    by_stratum: dict[str | None, list[_Cluster]] = defaultdict(list)
    for cluster in clusters:
        by_stratum[cluster.stratum].append(cluster)
    for stratum, target in _target_sizes(by_stratum, size, len(keys)).items():
        chosen.extend(_take_clusters(by_stratum[stratum], target))
    if not chosen:
        chosen = [min(clusters, key=lambda c: (len(c.rows), c.rank))]
    heldout = {row for cluster in chosen for row in cluster.rows}
    train = tuple(row for row in range(len(keys)) if row not in heldout)
    return SplitIndices(train, tuple(sorted(heldout)))


def normalize_text(text: str) -> str:
    """Normalize a text for comparison: NFKC, case folded, whitespace runs as one space, stripped.

    Idempotent. The folding follows Unicode's rule for caseless identifiers (section 3.13, D146).
    """
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFD", text).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def find_class_labels(answers: Sequence[str]) -> list[str] | None:
    """Return the answers if they recur like class labels, so that a split can stratify by them.

    None if they do not: there are more than 100 different ones, or fewer than 3 rows for each.
    """
    return list(answers) if len(set(answers)) <= min(100, len(answers) // 3) else None


def _check_labels(name: str, labels: Sequence[str | None] | None, expected: int) -> None:
    if labels is not None and len(labels) != expected:
        raise ValueError(f"{name}: must have one entry per record ({expected}), got {len(labels)}")


def _parse_holdout(holdout: float | int, total: int) -> int:
    """Return the number of rows to hold out; a share is rounded, but never to 0 or to all rows."""
    if total < 2:
        raise ValueError(f"splitting needs at least 2 records, got {total}")
    if isinstance(holdout, bool) or not isfinite(holdout) or holdout <= 0:
        raise ValueError(f"must be a share in (0, 1) or a count from 1, got {holdout}")
    if isinstance(holdout, int):
        if holdout >= total:
            raise ValueError(f"leaves nothing to train on, got {holdout:,} of {total:,} records")
        return holdout
    if holdout >= 1:
        raise ValueError(
            f"must be a share below 1, or an integer for a number of rows, got {holdout}"
        )
    return min(max(round(holdout * total), 1), total - 1)


def _build_clusters(
    keys: Sequence[str],
    seed: int,
    groups: Sequence[str | None] | None,
    strata: Sequence[str | None] | None,
) -> Iterator[_Cluster]:
    """Join records with equal keys or groups; a cluster's rank is the smallest hash in it."""
    forest = _UnionFind(len(keys))
    owner: dict[tuple[str, str], int] = {}
    ranks: list[bytes] = []
    salt = str(seed).encode()
    for row, key in enumerate(keys):
        group = groups[row] if groups is not None else None
        labels = [("key", normalize_text(key))]
        if group is not None:
            labels.append(("group", group))
        for label in labels:
            forest.join(owner.setdefault(label, row), row)
        ranks.append(_hash_parts(salt, *labels[-1]))
    for members in forest.groups():
        rank = min(ranks[row] for row in members)
        yield _Cluster(rank, tuple(members), _main_stratum(members, strata))


def _hash_parts(salt: bytes, *parts: str) -> bytes:
    digest = blake2b(salt, digest_size=16)
    for part in parts:
        digest.update(b"\0" + part.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _main_stratum(rows: list[int], strata: Sequence[str | None] | None) -> str | None:
    """Return the most frequent label of a cluster."""
    if strata is None:
        return None
    counts = Counter(strata[row] for row in rows)
    return min(counts, key=lambda label: (-counts[label], label is not None, label or ""))


def _target_sizes(
    by_stratum: dict[str | None, list[_Cluster]], size: int, total: int
) -> dict[str | None, int]:
    """Return the rows to hold out per label: the exact share rounded down, plus at most one row.

    The additional rows go first to labels that would have no held-out row, then by the largest
    remainder (Hamilton's method), and last to labels that would have no training row.
    """
    counts = {label: sum(len(c.rows) for c in found) for label, found in by_stratum.items()}
    targets = {label: count * size // total for label, count in counts.items()}

    def priority(label: str | None) -> tuple[int, int, bytes]:
        vanishes = len(by_stratum[label]) == 1 or targets[label] + 1 >= counts[label]
        order = 2 if vanishes else min(targets[label], 1)
        return order, -(counts[label] * size % total), by_stratum[label][0].rank

    rest = size - sum(targets.values())
    for label in sorted((x for x in counts if counts[x] * size % total), key=priority)[:rest]:
        targets[label] += 1
    return targets


def _take_clusters(clusters: list[_Cluster], target: int) -> list[_Cluster]:
    """Take clusters in their order until `target` rows are reached as closely as possible.

    A cluster with too many rows is skipped. At the end, the smallest skipped one is taken if that
    is closer to the target than stopping short, and if another one is left to train on.
    """
    chosen, skipped, missing = [], [], target
    for cluster in clusters:
        if len(cluster.rows) <= missing:
            chosen.append(cluster)
            missing -= len(cluster.rows)
        else:
            skipped.append(cluster)
    if missing and len(skipped) > 1:
        smallest = min(skipped, key=lambda c: (len(c.rows), c.rank))
        if len(smallest.rows) - missing < missing:
            chosen.append(smallest)
    return chosen


class _UnionFind:
    """Union-find over row numbers."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, row: int) -> int:
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first

    def groups(self) -> list[list[int]]:
        """Return all groups, each ascending, ordered by their first row."""
        found: dict[int, list[int]] = defaultdict(list)
        for row in range(len(self._parent)):
            found[self.find(row)].append(row)
        return list(found.values())
