"""Split records into training and held-out parts without leaks.

A held-out score is meaningful only if the model was not trained on the same records. So records
with the same content, and records of one group, always go to the same part. The split depends on
the content of the records, not on their order.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from math import isfinite
from typing import Any, TypeVar

T = TypeVar("T")
MAX_CLASS_LABELS = 100
_DIGEST_BYTES = 16
_ASCII_SPACES = {ord(space): " " for space in "\t\n\v\f\r\x1c\x1d\x1e\x1f"}


@dataclass(frozen=True)
class SplitIndices:
    """Ascending indices of the records of both parts; each record is in exactly one part."""

    train: Sequence[int]
    heldout: Sequence[int]


@dataclass(frozen=True)
class Subset(Sequence[T]):
    """Some items of a sequence, by their indices. Nothing is copied or read before it is needed."""

    items: Sequence[T]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        found = self.indices[index]
        return Subset(self.items, found) if isinstance(index, slice) else self.items[found]

    def __iter__(self) -> Iterator[T]:
        return map(self.items.__getitem__, self.indices)


class Splitter:
    """Collects of each record what a split needs, about 50 bytes, and splits the records.

    Two records with the same normalized key are duplicates; a key is normally the record's text.
    Duplicates, and records of the same group (None is no group), stay together. With labels, the
    same share of each label is held out, to within one row if no rows have to stay together.
    """

    def __init__(self, seed: int) -> None:
        self._salt = str(seed).encode()
        self._digests = bytearray()  # of each record's key, and of its group if it has one
        self._rows = array("l")  # the record of each digest
        self._last = array("l")  # the digest by which each record is ordered
        self._labels = array("l")
        self._label_codes: dict[str | None, int] = {}

    def __len__(self) -> int:
        return len(self._last)

    def add(self, key: str, group: str | None) -> None:
        """Add the next record."""
        row = len(self._last)
        self._add_digest(row, "key", normalize_text(key))
        if group is not None:
            self._add_digest(row, "group", group)
        self._last.append(len(self._rows) - 1)

    def add_label(self, label: str | None) -> None:
        """Add the label of the record that was added last; all records or none have labels."""
        self._labels.append(self._label_codes.setdefault(label, len(self._label_codes)))

    def keeps_labels(self, *, complete: bool = False) -> bool:
        """Return True if the labels recur, 3 times each at the end; otherwise forget them."""
        limit = min(MAX_CLASS_LABELS, len(self) // 3) if complete else MAX_CLASS_LABELS
        if not (recur := len(self._label_codes) <= limit):
            self._labels = array("l")
        return recur

    def split(self, holdout: float | int) -> SplitIndices:
        """Hold out a share (float below 1) or a count (int) of the records.

        The size is exact if the clusters permit it, and as close as possible otherwise. Adding
        records moves few others, because the order of records is a hash of their content.

        Raises:
            ValueError: nothing to split, or one part would be empty; the caller names the option.
        """
        total = len(self)
        size = _parse_holdout(holdout, total)
        clusters = self._join()
        if len(clusters.roots) == 1:
            raise ValueError(
                f"cannot split, all {total} records are duplicates of each other or in one group"
            )
        by_stratum = self._by_stratum(clusters)
        chosen: list[int] = []
        for stratum, target in self._target_sizes(by_stratum, clusters, size).items():
            chosen.extend(_take_clusters(by_stratum[stratum], clusters.sizes, target))
        if not chosen:
            chosen = [min(clusters.roots, key=lambda root: clusters.sizes[root])]
        is_heldout = bytearray(total)
        for root in chosen:
            is_heldout[root] = True
        parts = array("l"), array("l")
        for row in range(total):
            parts[is_heldout[clusters.root_of[row]]].append(row)
        return SplitIndices(*parts)

    def _add_digest(self, row: int, kind: str, text: str) -> None:
        digest = blake2b(self._salt, digest_size=_DIGEST_BYTES)
        digest.update(f"\0{kind}\0{text}".encode("utf-8", "surrogatepass"))
        self._digests += digest.digest()
        self._rows.append(row)

    def _digest(self, number: int) -> bytes:
        return bytes(self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES])

    def _join(self) -> _Clusters:
        """Join records with an equal digest; a cluster's rank is its smallest record digest."""
        parent = array("l", range(len(self)))
        order = sorted(range(len(self._rows)), key=self._digest)
        for first, second in pairwise(order):
            if self._digest(first) == self._digest(second):
                one, other = (_find(parent, self._rows[n]) for n in (first, second))
                parent[max(one, other)] = min(one, other)
        sizes, best = array("l", bytes(parent.itemsize * len(parent))), array("l", self._last)
        for row in range(len(parent)):
            root = parent[row] = _find(parent, row)
            sizes[root] += 1
            if row != root and self._digest(self._last[row]) < self._digest(best[root]):
                best[root] = self._last[row]
        roots = [row for row in range(len(parent)) if parent[row] == row]
        roots.sort(key=lambda root: self._digest(best[root]))
        return _Clusters(roots, parent, sizes)

    def _by_stratum(self, clusters: _Clusters) -> dict[int | None, list[int]]:
        """Return the clusters by the most frequent label of each, in their order."""
        if not self._labels:
            return {None: clusters.roots}
        labels = list(self._label_codes)
        counts: dict[int, Counter[int]] = defaultdict(Counter)
        for row, root in enumerate(clusters.root_of):
            if clusters.sizes[root] > 1:
                counts[root][self._labels[row]] += 1

        def main_label(root: int) -> int:
            if root not in counts:
                return self._labels[root]
            found = counts[root]
            return min(
                found, key=lambda code: (-found[code], labels[code] is not None, labels[code] or "")
            )

        by_stratum: dict[int | None, list[int]] = defaultdict(list)
        for root in clusters.roots:
            by_stratum[main_label(root)].append(root)
        return by_stratum

    def _target_sizes(
        self, by_stratum: Mapping[int | None, list[int]], clusters: _Clusters, size: int
    ) -> dict[int | None, int]:
        """Return the rows to hold out per label: the exact share rounded down, plus at most one.

        The additional rows go first to labels that would have no held-out row, then by the largest
        remainder (Hamilton's method), and last to labels that would have no training row.
        """
        total = len(self)
        counts = {x: sum(clusters.sizes[c] for c in found) for x, found in by_stratum.items()}
        targets = {label: count * size // total for label, count in counts.items()}

        def priority(label: int | None) -> tuple[int, int]:
            vanishes = len(by_stratum[label]) == 1 or targets[label] + 1 >= counts[label]
            order = 2 if vanishes else min(targets[label], 1)
            return order, -(counts[label] * size % total)

        rest = size - sum(targets.values())
        for label in sorted((x for x in counts if counts[x] * size % total), key=priority)[:rest]:
            targets[label] += 1
        return targets


@dataclass(frozen=True)
class _Clusters:
    """Records that must go to the same part. A cluster is known by its first record, its root."""

    roots: list[int]  # in the order in which clusters are held out: by a hash of content and seed
    root_of: array[int]
    sizes: array[int]  # by root


def normalize_text(text: str) -> str:
    """Normalize a text for comparison: NFKC, case folded, whitespace runs as one space, stripped.

    Idempotent. The folding follows Unicode's rule for caseless identifiers (section 3.13, D146).
    """
    if text.isascii():
        folded = text.lower().translate(_ASCII_SPACES)
        return " ".join(folded.split()) if "  " in folded else folded.strip(" ")
    folded = unicodedata.normalize("NFD", text).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


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


def _take_clusters(clusters: Sequence[int], sizes: Sequence[int], target: int) -> list[int]:
    """Take clusters in their order until `target` rows are reached as closely as possible.

    A cluster with too many rows is skipped. At the end, the smallest skipped one is taken if that
    is closer to the target than stopping short, and if another one is left to train on.
    """
    chosen, skipped, missing = [], [], target
    for cluster in clusters:
        if sizes[cluster] <= missing:
            chosen.append(cluster)
            missing -= sizes[cluster]
        else:
            skipped.append(cluster)
    if missing and len(skipped) > 1:
        smallest = min(skipped, key=sizes.__getitem__)
        if sizes[smallest] - missing < missing:
            chosen.append(smallest)
    return chosen


def _find(parent: array[int], row: int) -> int:
    """Return the root of a row in a forest of rows, and shorten the path to it."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row
