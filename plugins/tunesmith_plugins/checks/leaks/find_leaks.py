"""Find leaks: held-out texts that equal, or nearly equal, a training text.

A held-out score is meaningful only if the model was not trained on the same records. The split of
the core keeps equal records together; texts that only resemble each other, and parts that the user
split, can still leak. This module has pure functions over texts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from tunesmith.data.splits import normalize_text

_SHINGLE_WORDS = 5
_MAX_ROWS_PER_SHINGLE = 50  # limits the time on rows that were made from one template
_WORD = re.compile(
    # In scripts without spaces each character is a word: Thai, Lao, Khmer, kana, Han, Hangul.
    "[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
    "|[^\\W\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True)
class Leak:
    """A held-out record and the training record most similar to it.

    `similarity` is the Jaccard similarity of their word 5-grams, 1.0 for exact copies.
    """

    train_index: int
    heldout_index: int
    kind: Literal["exact", "near"]
    similarity: float


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
