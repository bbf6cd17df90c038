"""Single rows that are worth reading: the worst, those that got worse, and the near-misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from tunesmith.events import Measured
from tunesmith_evidence.answers.normalize import LENIENT
from tunesmith_evidence.answers.whole_words import WholeFinder
from tunesmith_evidence.slices.rows import ScoredRow

__all__ = ["find_near_misses", "find_regressed", "find_wrong", "has_best_value"]

NEAR = 0.8
"""Similarity of an answer to the expected one from which on a wrong answer is a near-miss."""
MAX_CHARACTERS = 2_000
"""Longer texts are compared by their beginning: comparing takes the square of their length."""


def has_best_value(metric: Measured) -> bool:
    """Return True if a row can be right: more is better, and it is a share and no quantity."""
    return metric.higher_is_better and not metric.unit


def find_wrong(
    rows: Sequence[ScoredRow], higher_is_better: bool, *, has_best: bool = True
) -> list[ScoredRow]:
    """Return the rows with less than the best value among all, the worst first.

    Of a metric without a best value, or where lower is better, such as a loss, the worse half.
    """
    if not rows:
        return []
    sign = 1 if higher_is_better else -1
    ordered = sorted(rows, key=lambda row: (sign * row.value, row.number))
    if not higher_is_better or not has_best:
        return ordered[: len(ordered) // 2]
    best = max(1.0, ordered[-1].value)
    return [row for row in ordered if row.value < best]


def find_regressed(
    rows: Sequence[ScoredRow], base: Mapping[int, ScoredRow], higher_is_better: bool
) -> list[tuple[ScoredRow, ScoredRow]]:
    """Return the rows on which the base model was better, each with its row.

    The largest difference comes first.

    Args:
        base: the rows of the base model, by their numbers; there may be fewer.
    """
    sign = 1 if higher_is_better else -1
    pairs = [(row, base[row.number]) for row in rows if row.number in base]
    worse = [(row, old) for row, old in pairs if sign * (old.value - row.value) > 0]
    return sorted(worse, key=lambda pair: sign * (pair[0].value - pair[1].value))


def find_near_misses(wrong: Sequence[ScoredRow]) -> list[tuple[ScoredRow, str]]:
    """Return wrong answers that are nearly right, each with what is wrong."""
    found = []
    for row in wrong:
        given, right = LENIENT.normalize(row.output) or "", LENIENT.normalize(row.expected) or ""
        if not given:
            continue
        if given == right:
            found.append((row, "only case, punctuation or a phrase before the answer differ"))
        elif any(WholeFinder([right]).find(given)):
            found.append((row, "the expected answer is in it, with more around it"))
        elif _similarity(given, right) >= NEAR:
            found.append((row, "a few characters differ"))
    return found


def _similarity(first: str, second: str) -> float:
    first, second = first[:MAX_CHARACTERS], second[:MAX_CHARACTERS]
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= NEAR else 0.0
