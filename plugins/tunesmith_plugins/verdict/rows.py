"""Compute how many test rows would be enough, and how many changes would flip the verdict."""

from __future__ import annotations

import math
from statistics import NormalDist

from tunesmith_evidence.statistics import compare, rows_needed
from tunesmith_plugins.verdict.paired_comparisons import PairedComparison

MAX_ROWS = 1_000_000


def count_rows_needed(comparison: PairedComparison, margin: float, level: float) -> int | None:
    """Estimate how many test rows would decide the comparison with 80 % power, rounded up.

    If the measured advantage is at least the margin, the interval of the difference has to exclude
    0. Otherwise the interval has to lie below the margin. The estimate assumes that the difference
    and its standard deviation stay as measured.

    Args:
        comparison: the comparison that did not decide.
        margin: smallest advantage that is worth tuning.
        level: confidence level required to call the baseline sufficient. With several baselines it
            is higher than that of the comparison.

    Returns:
        The number of rows, or None if it cannot be estimated or exceeds :data:`MAX_ROWS`.
    """
    advantage = comparison.advantage()
    towards = advantage.value if advantage.value >= margin else margin - advantage.value
    if not math.isfinite(comparison.error) or towards <= 0:
        return None
    is_below = advantage.value < margin
    confidence = max(comparison.confidence, level) if is_below else comparison.confidence
    needed: int = rows_needed(advantage.n, comparison.error, towards, confidence=confidence)
    if comparison.is_share and is_below:
        needed = max(needed, _fewest_rows(margin, confidence))
    elif comparison.is_share:
        # McNemar's test needs at least this many improved rows, even if no row gets worse.
        fewest = math.floor(1 - math.log2(1 - comparison.confidence)) + 1
        needed = max(needed, math.ceil(fewest / advantage.value))
    if needed > MAX_ROWS:
        return None
    step: int = 10 ** max(0, len(str(needed)) - 2)
    return math.ceil(needed / step) * step


def _fewest_rows(margin: float, confidence: float) -> int:
    """Return the rows needed to show a difference below the margin if the models never differ.

    The upper end of the score interval is then z² / (n + z²), so n = z² (1 - margin) / margin.
    """
    z2 = NormalDist().inv_cdf(1 - (1 - confidence) / 2) ** 2
    return math.ceil(z2 * (1 - margin) / margin) if margin < 1 else 1


def count_changes(comparison: PairedComparison, margin: float) -> int:
    """Return the smallest number of wins that would have to become losses to overturn FINE-TUNE.

    Returns:
        The number of rows, or 0 unless all values are 0 or 1 and the rows are independent and
        equally weighted.
    """
    pairs = comparison.pairs
    baseline, tuned = pairs.baseline_values, pairs.tuned_values
    binary = all(value in (0, 1) for value in (*baseline, *tuned))
    if not (comparison.is_share and binary and comparison.sign > 0):
        return 0
    if pairs.weights is not None or pairs.groups is not None:
        return 0
    wins = [row for row, (r, t) in enumerate(zip(baseline, tuned, strict=True)) if t > r]
    for count, row in enumerate(wins, start=1):
        baseline[row], tuned[row] = 1.0, 0.0
        found = compare(baseline, tuned, higher_is_better=True, confidence=comparison.confidence)
        if found.difference.value < margin or found.outcome != "better":
            return count
    return 0
