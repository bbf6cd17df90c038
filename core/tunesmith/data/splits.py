"""Split records into training and held-out parts without leaks, and find leaks between parts.

A held-out score is meaningful only if the model was not trained on the same records. So records
with the same content, and records of one group, always go to the same part. The split depends on
the content of the records, not on their order. This module has pure functions over texts, and uses
only the standard library.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, isfinite
from typing import Literal

_SHINGLE_WORDS = 5
_MAX_ROWS_PER_SHINGLE = 50  # limits the time on rows that were made from one template
_WORD = re.compile(
    # In scripts without spaces each character is a word: Thai, Lao, Khmer, kana, Han, Hangul.
    "[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
    "|[^\\W\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True)
class SplitIndices:
    """Ascending indices of the records of both parts; each record is in exactly one part."""

    train: tuple[int, ...]
    heldout: tuple[int, ...]


@dataclass(frozen=True)
class Leak:
    """A held-out record and the training record most similar to it.

    `similarity` is the Jaccard similarity of their word 5-grams, 1.0 for exact copies.
    """

    train_index: int
    heldout_index: int
    kind: Literal["exact", "near"]
    similarity: float


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


def find_leaks(
    train_texts: Sequence[str], heldout_texts: Sequence[str], threshold: float = 0.8
) -> list[Leak]:
    """Find the held-out texts with a duplicate or near duplicate among the training texts.

    Returns:
        One leak for each such held-out text, with the most similar training text.
    """
    _check_threshold(threshold)
    first_row: dict[str, int] = {}
    for row, text in enumerate(train_texts):
        first_row.setdefault(normalize_text(text), row)
    known = sorted(first_row)
    probes = [normalize_text(text) for text in heldout_texts]
    shingles = _shingles(known + probes)
    index = _Index(shingles, threshold)
    for number in range(len(known)):
        index.add(number)
    found = []
    for heldout_row, text in enumerate(probes):
        if text in first_row:
            found.append(Leak(first_row[text], heldout_row, "exact", 1.0))
            continue
        own = shingles[len(known) + heldout_row]
        scored = [(_jaccard(own, shingles[c]), -c) for c in index.candidates(own)]
        # Negative indices, so that of equal similarities the first text wins.
        similarity, negative = max(scored, default=(0.0, 0))
        if similarity >= threshold:
            found.append(Leak(first_row[known[-negative]], heldout_row, "near", similarity))
    return found


# --- splitting ------------------------------------------------------------------------------


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


# --- near duplicates ------------------------------------------------------------------------


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: must be in (0, 1], got {threshold}")


def _shingles(texts: Iterable[str]) -> list[frozenset[int]]:
    """Return the word 5-grams of normalized texts as numbers; a smaller number is rarer."""
    numbers: dict[tuple[str, ...], int] = {}
    raw = []
    for text in texts:
        words = _WORD.findall(text) or [text]
        grams = (
            tuple(words[i : i + _SHINGLE_WORDS])
            for i in range(max(1, len(words) - _SHINGLE_WORDS + 1))
        )
        raw.append({numbers.setdefault(gram, len(numbers)) for gram in grams})
    counts = Counter(number for grams in raw for number in grams)
    order = sorted(counts, key=lambda number: (counts[number], number))
    rarity = {number: position for position, number in enumerate(order)}
    return [frozenset(rarity[number] for number in grams) for grams in raw]


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)


class _Index:
    """An index that finds sets which may be similar enough, without comparing all pairs.

    Two sets with Jaccard similarity t share at least one of the |x| - ceil(t |x|) + 1 rarest
    elements of each (prefix filter: Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007). Unlike
    MinHash it misses no pair, and it is faster here, because most 5-grams occur only once. Only
    the first 50 rows per element are kept: otherwise, twenty thousand rows from one template would
    be compared pair by pair.
    """

    def __init__(self, sets: Sequence[frozenset[int]], threshold: float) -> None:
        self._sets = sets
        self._threshold = threshold
        self._rows: dict[int, list[int]] = defaultdict(list)

    def _prefix(self, items: frozenset[int]) -> list[int]:
        keep = len(items) - ceil(self._threshold * len(items) - 1e-9) + 1
        return sorted(items)[:keep]

    def add(self, number: int) -> None:
        for item in self._prefix(self._sets[number]):
            if len(self._rows[item]) < _MAX_ROWS_PER_SHINGLE:
                self._rows[item].append(number)

    def candidates(self, items: frozenset[int]) -> list[int]:
        """Return the rows added so far that may reach the threshold, ascending."""
        low, high = self._threshold * len(items) - 1e-9, len(items) / self._threshold + 1e-9
        found = {row for item in self._prefix(items) for row in self._rows.get(item, ())}
        return sorted(row for row in found if low <= len(self._sets[row]) <= high)
