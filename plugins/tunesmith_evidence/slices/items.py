"""Select rows that are worth reading: incorrect answers, regressions and near-misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from tunesmith.events import Measured
from tunesmith_evidence.answers.normalize import LENIENT_NORMALIZER
from tunesmith_evidence.answers.whole_words import WholeWordFinder
from tunesmith_evidence.slices.rows import ScoredRow

__all__ = [
    "describe_near_miss",
    "find_near_misses",
    "find_regressed_rows",
    "find_wrong_rows",
    "has_best_value",
]

MIN_SIMILARITY = 0.8
"""Minimum similarity to the expected answer for an incorrect answer to be a near-miss."""
MAX_CHARACTERS = 2_000
"""Longer texts are truncated, because the comparison takes quadratic time."""


def has_best_value(metric: Measured) -> bool:
    """Return True if a metric has a best value: higher is better, and it has no unit."""
    return metric.higher_is_better and not metric.unit


def find_wrong_rows(
    rows: Sequence[ScoredRow], higher_is_better: bool, *, has_best: bool = True
) -> list[ScoredRow]:
    """Return the rows that are not fully correct, the worst first.

    For a metric without a best value, such as a loss, return the worse half of the rows.
    """
    if not rows:
        return []
    sign = 1 if higher_is_better else -1
    ordered = sorted(rows, key=lambda row: (sign * row.value, row.number))
    if not higher_is_better or not has_best:
        return ordered[: len(ordered) // 2]
    best = max(1.0, ordered[-1].value)
    return [row for row in ordered if row.value < best]


def find_regressed_rows(
    rows: Sequence[ScoredRow], base: Mapping[int, ScoredRow], higher_is_better: bool
) -> list[tuple[ScoredRow, ScoredRow]]:
    """Return the rows on which the base model was better, each with the base model's row.

    Args:
        rows: the rows of the tuned model.
        base: the rows of the base model by row number; some rows may be missing.
        higher_is_better: direction of the metric.

    Returns:
        Pairs of rows, the largest difference first.
    """
    sign = 1 if higher_is_better else -1
    pairs = [(row, base[row.number]) for row in rows if row.number in base]
    worse = [(row, old) for row, old in pairs if sign * (old.value - row.value) > 0]
    return sorted(worse, key=lambda pair: sign * (pair[0].value - pair[1].value))


def find_near_misses(wrong: Sequence[ScoredRow]) -> list[tuple[ScoredRow, str]]:
    """Return incorrect answers that are nearly correct, and how each one differs."""
    described = ((row, describe_near_miss(row.output, row.expected)) for row in wrong)
    return [(row, how) for row, how in described if how]


def describe_near_miss(output: str, expected: str) -> str:
    """Return how an incorrect answer differs from the expected one, or "" if by too much."""
    given, right = (LENIENT_NORMALIZER.normalize(text) or "" for text in (output, expected))
    if not given:
        return ""
    if given == right:
        return "differs only in case, punctuation or a lead-in phrase"
    if any(WholeWordFinder([right]).find(given)):
        return "contains the expected answer, with more text around it"
    return "differs in a few characters" if _similarity(given, right) >= MIN_SIMILARITY else ""


def _similarity(first: str, second: str) -> float:
    first, second = first[:MAX_CHARACTERS], second[:MAX_CHARACTERS]
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= MIN_SIMILARITY else 0.0
