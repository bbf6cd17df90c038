"""Numbers of test rows: how many are needed, and how many decide."""

from __future__ import annotations

import math
from statistics import NormalDist

from tunesmith_evidence.statistics import compare, rows_needed
from tunesmith_plugins.verdict.paired_comparisons import PairedComparison

MOST_ROWS = 1_000_000


def count_rows_needed(comparison: PairedComparison, margin: float, proof: float) -> int | None:
    """Return how many test rows would decide, rounded up; None if that cannot be estimated.

    It is the number with which, in four of five runs, the interval of the difference excludes 0
    if the measured advantage is the margin or more, and else is below the margin. It supposes that
    the difference, and how much the two models disagree, stay as measured.

    Args:
        proof: level of the interval that must be below the margin, beside that of the comparison:
            it
            is higher if there are many baselines.
    """
    advantage = comparison.advantage()
    towards = advantage.value if advantage.value >= margin else margin - advantage.value
    if not math.isfinite(comparison.error) or towards <= 0:
        return None
    is_below = advantage.value < margin
    confidence = max(comparison.confidence, proof) if is_below else comparison.confidence
    needed: int = rows_needed(advantage.n, comparison.error, towards, confidence=confidence)
    if comparison.is_share and is_below:
        needed = max(needed, _fewest_rows(margin, confidence))
    elif comparison.is_share:
        # Even if no row gets worse, so many must get better for McNemar's test.
        fewest = math.floor(1 - math.log2(1 - comparison.confidence)) + 1
        needed = max(needed, math.ceil(fewest / advantage.value))
    if needed > MOST_ROWS:
        return None
    step: int = 10 ** max(0, len(str(needed)) - 2)
    return math.ceil(needed / step) * step


def _fewest_rows(margin: float, confidence: float) -> int:
    """Return the rows that show a difference below the margin if no row differs at all.

    The upper end of the score interval is then z^2 / (n + z^2).
    """
    z2 = NormalDist().inv_cdf(1 - (1 - confidence) / 2) ** 2
    return math.ceil(z2 * (1 - margin) / margin) if margin < 1 else 1


def count_changes(comparison: PairedComparison, margin: float) -> int:
    """Return the fewest rows that would have to go to the baseline for FINE-TUNE to be false.

    Only for right/wrong values of rows that are independent and equally weighted; else 0.
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
