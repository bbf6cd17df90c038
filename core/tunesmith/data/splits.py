"""Split records into training and held-out parts that share nothing, and find what they share.

A held-out number is only worth something if the model has not seen the answer. So records that
say the same, and records of one group, always land on the same side; and a split depends on what
the records say, not on their order. Pure functions over the text of records, standard library
only.
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

_SHINGLE = 5  # words per shingle
_BUCKET = 50  # rows compared per shared shingle; bounds the time on rows made from one template
_WORD = re.compile(
    # Scripts that write no spaces count a character as a word: Thai, Lao, Khmer, kana, Han, Hangul.
    "[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
    "|[^\\W\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True)
class Split:
    """Indices of the records on either side, ascending; every record is on exactly one."""

    train: tuple[int, ...]
    heldout: tuple[int, ...]


@dataclass(frozen=True)
class Leak:
    """A held-out record and the training record closest to it.

    `similarity` is the Jaccard similarity of their word 5-grams, 1.0 for exact copies.
    """

    train_index: int
    heldout_index: int
    kind: Literal["exact", "near"]
    similarity: float


@dataclass(frozen=True)
class _Cluster:
    """Records that must stay together."""

    rank: bytes  # where it comes in the draw: a hash of its content and the seed
    rows: tuple[int, ...]
    stratum: str | None


def split(
    keys: Sequence[str],
    *,
    holdout: float | int,
    seed: int,
    groups: Sequence[str | None] | None = None,
    strata: Sequence[str | None] | None = None,
) -> Split:
    """Hold out a share (float below 1) or a count (int) of the records.

    `keys` hold what makes two records the same, normally their whole text. Records with the same
    normalised key, or of the same group, stay together; None is no group. With `strata` (labels)
    each label is held out in the same proportion, within one row where nothing ties rows
    together. The size is met exactly where clusters permit, and as nearly as possible where not.

    Adding records moves few others: a record's place in the draw is a hash of its content.

    Raises:
        ValueError: nothing to split, or one side would stay empty; the caller says which key.
    """
    size = _holdout_size(holdout, len(keys))
    _check_labels("groups", groups, len(keys))
    _check_labels("strata", strata, len(keys))
    clusters = sorted(_clusters(keys, seed, groups, strata), key=lambda c: c.rank)
    if len(clusters) == 1:
        raise ValueError(f"cannot split, all {len(keys)} records are the same or in one group")
    chosen: list[_Cluster] = []
    by_stratum: dict[str | None, list[_Cluster]] = defaultdict(list)
    for cluster in clusters:
        by_stratum[cluster.stratum].append(cluster)
    for stratum, target in _targets(by_stratum, size, len(keys)).items():
        chosen.extend(_fill(by_stratum[stratum], target))
    if not chosen:
        chosen = [min(clusters, key=lambda c: (len(c.rows), c.rank))]
    heldout = sorted(row for cluster in chosen for row in cluster.rows)
    taken = set(heldout)
    return Split(tuple(i for i in range(len(keys)) if i not in taken), tuple(heldout))


def normalise(text: str) -> str:
    """Text for comparison: NFKC, case folded, runs of whitespace as one space, no outer space.

    Idempotent. Unicode's own rule for caseless identifiers (section 3.13, D146) does the folding.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFD", text).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Groups of at least two texts that are equal after `normalise`, in order of appearance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[normalise(text)].append(index)
    return [rows for rows in groups.values() if len(rows) > 1]


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[list[int]]:
    """Groups of at least two texts linked by a similarity of at least `threshold`.

    Similarity is the Jaccard similarity of word 5-grams (a text below five words is one shingle,
    so it is only near to copies of itself). Copies are included. No pair is missed unless one
    rare 5-gram is shared by more than 50 different texts: see `_Index`.
    """
    _check_threshold(threshold)
    rows: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        rows[normalise(text)].append(index)
    distinct = sorted(rows)
    forest = _Forest(len(texts))
    for copies in rows.values():
        for row in copies[1:]:
            forest.join(copies[0], row)
    shingles = _shingles(distinct)
    index_ = _Index(shingles, threshold)
    for number, own in enumerate(shingles):
        first = rows[distinct[number]][0]
        for other in index_.candidates(own):
            partner = rows[distinct[other]][0]
            if forest.find(first) == forest.find(partner):
                continue
            if _jaccard(own, shingles[other]) >= threshold:
                forest.join(first, partner)
        index_.add(number)
    return [members for members in forest.groups() if len(members) > 1]


def leaks(
    train_texts: Sequence[str], heldout_texts: Sequence[str], threshold: float = 0.8
) -> list[Leak]:
    """Held-out texts that the training texts give away: one leak each, the closest one."""
    _check_threshold(threshold)
    first_row: dict[str, int] = {}
    for row, text in enumerate(train_texts):
        first_row.setdefault(normalise(text), row)
    known = sorted(first_row)
    probes = [normalise(text) for text in heldout_texts]
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
        similarity, place = max(scored, default=(0.0, 0))
        if similarity >= threshold:
            found.append(Leak(first_row[known[-place]], heldout_row, "near", similarity))
    return found


# --- splitting ------------------------------------------------------------------------------


def _check_labels(name: str, labels: Sequence[str | None] | None, expected: int) -> None:
    if labels is not None and len(labels) != expected:
        raise ValueError(f"{name}: must have one entry per record ({expected}), got {len(labels)}")


def _holdout_size(holdout: float | int, total: int) -> int:
    """Rows to hold out; a share is rounded, but never to nothing or everything."""
    if total < 2:
        raise ValueError(f"splitting needs at least 2 records, got {total}")
    if isinstance(holdout, bool) or not isfinite(holdout) or holdout <= 0:
        raise ValueError(f"must be a share in (0, 1) or a count from 1, got {holdout}")
    if isinstance(holdout, int):
        if holdout >= total:
            raise ValueError(f"leaves nothing to train on, got {holdout:,} of {total:,} records")
        return holdout
    if holdout >= 1:
        raise ValueError(f"a share must be below 1 (a count is whole), got {holdout}")
    return min(max(round(holdout * total), 1), total - 1)


def _clusters(
    keys: Sequence[str],
    seed: int,
    groups: Sequence[str | None] | None,
    strata: Sequence[str | None] | None,
) -> Iterator[_Cluster]:
    """Join equal keys and equal groups, and rank each cluster by the least hash in it."""
    forest = _Forest(len(keys))
    owner: dict[tuple[str, str], int] = {}
    ranks: list[bytes] = []
    salt = str(seed).encode()
    for row, key in enumerate(keys):
        group = groups[row] if groups is not None else None
        labels = [("key", normalise(key))]
        if group is not None:
            labels.append(("group", group))
        for label in labels:
            forest.join(owner.setdefault(label, row), row)
        ranks.append(_hash(salt, *labels[-1]))
    for members in forest.groups():
        rank = min(ranks[row] for row in members)
        yield _Cluster(rank, tuple(members), _main_stratum(members, strata))


def _hash(salt: bytes, *parts: str) -> bytes:
    digest = blake2b(salt, digest_size=16)
    for part in parts:
        digest.update(b"\0" + part.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _main_stratum(rows: list[int], strata: Sequence[str | None] | None) -> str | None:
    """The commonest label of a cluster."""
    if strata is None:
        return None
    counts = Counter(strata[row] for row in rows)
    return min(counts, key=lambda label: (-counts[label], label is not None, label or ""))


def _targets(
    by_stratum: dict[str | None, list[_Cluster]], size: int, total: int
) -> dict[str | None, int]:
    """Rows to hold out per label: the exact share rounded down, and the rest one row each.

    The rest goes first to labels that would have no held-out row, then by the largest remainder
    (Hamilton's rule), and last to labels that would vanish from training.
    """
    counts = {label: sum(len(c.rows) for c in found) for label, found in by_stratum.items()}
    targets = {label: count * size // total for label, count in counts.items()}

    def turn(label: str | None) -> tuple[int, int, bytes]:
        vanishes = len(by_stratum[label]) == 1 or targets[label] + 1 >= counts[label]
        order = 2 if vanishes else min(targets[label], 1)
        return order, -(counts[label] * size % total), by_stratum[label][0].rank

    rest = size - sum(targets.values())
    for label in sorted((x for x in counts if counts[x] * size % total), key=turn)[:rest]:
        targets[label] += 1
    return targets


def _fill(clusters: list[_Cluster], target: int) -> list[_Cluster]:
    """Take clusters in the order of the draw until `target` rows are reached as nearly as can be.

    A cluster too large for what is left is passed over; at the end, the smallest of those is
    taken if overshooting is nearer than stopping short, and something is left to train on.
    """
    chosen, passed, left = [], [], target
    for cluster in clusters:
        if len(cluster.rows) <= left:
            chosen.append(cluster)
            left -= len(cluster.rows)
        else:
            passed.append(cluster)
    if left and len(passed) > 1:
        smallest = min(passed, key=lambda c: (len(c.rows), c.rank))
        if len(smallest.rows) - left < left:
            chosen.append(smallest)
    return chosen


class _Forest:
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
        """All groups, each ascending, ordered by their first row."""
        found: dict[int, list[int]] = defaultdict(list)
        for row in range(len(self._parent)):
            found[self.find(row)].append(row)
        return list(found.values())


# --- near duplicates ------------------------------------------------------------------------


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: must be in (0, 1], got {threshold}")


def _shingles(texts: Iterable[str]) -> list[frozenset[int]]:
    """Word 5-grams of normalised texts, numbered from the rarest: a smaller number is rarer."""
    numbers: dict[tuple[str, ...], int] = {}
    raw = []
    for text in texts:
        words = _WORD.findall(text) or [text]
        grams = (tuple(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1)))
        raw.append({numbers.setdefault(gram, len(numbers)) for gram in grams})
    counts = Counter(number for grams in raw for number in grams)
    order = sorted(counts, key=lambda number: (counts[number], number))
    rarity = {number: place for place, number in enumerate(order)}
    return [frozenset(rarity[number] for number in grams) for grams in raw]


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)


class _Index:
    """Finds sets that may be similar enough, without comparing all pairs.

    Two sets with Jaccard similarity t share at least one of the |x| - ceil(t |x|) + 1 rarest
    elements of each (prefix filter: Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007). Unlike
    MinHash it misses nothing, and as most 5-grams occur once, it is also faster here. Only the
    first 50 rows per element are kept: twenty thousand rows from one template would otherwise
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
            if len(self._rows[item]) < _BUCKET:
                self._rows[item].append(number)

    def candidates(self, items: frozenset[int]) -> list[int]:
        """Rows added so far that may reach the threshold, ascending."""
        low, high = self._threshold * len(items) - 1e-9, len(items) / self._threshold + 1e-9
        found = {row for item in self._prefix(items) for row in self._rows.get(item, ())}
        return sorted(row for row in found if low <= len(self._sets[row]) <= high)
