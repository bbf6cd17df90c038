"""Numbers of held-out rows: how many are needed, and how many decide."""

from __future__ import annotations

import math
from statistics import NormalDist

from tunesmith_evidence.statistics import compare, rows_needed
from tunesmith_plugins.verdict.contests import Contest

MOST_ROWS = 1_000_000


def count_rows_needed(contest: Contest, margin: float, proof: float) -> int | None:
    """Return how many held-out rows would decide, rounded up; None if that cannot be estimated.

    It is the number with which, in four of five runs, the interval of the difference excludes 0
    if the measured advantage is the margin or more, and else is below the margin. It supposes that
    the difference, and how much the two models disagree, stay as measured.

    Args:
        proof: level of the interval that must be below the margin, beside that of the contest: it
            is higher if there are many rivals.
    """
    advantage = contest.advantage()
    towards = advantage.value if advantage.value >= margin else margin - advantage.value
    if not math.isfinite(contest.error) or towards <= 0:
        return None
    is_below = advantage.value < margin
    confidence = max(contest.confidence, proof) if is_below else contest.confidence
    needed: int = rows_needed(advantage.n, contest.error, towards, confidence=confidence)
    if contest.is_share and is_below:
        needed = max(needed, _fewest_rows(margin, confidence))
    elif contest.is_share:
        # Even if no row gets worse, so many must get better for McNemar's test.
        fewest = math.floor(1 - math.log2(1 - contest.confidence)) + 1
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


def count_changes(contest: Contest, margin: float) -> int:
    """Return the fewest rows that would have to go to the rival for FINE-TUNE to be false.

    Only for right/wrong values of rows that are independent and equally weighted; else 0.
    """
    pairs = contest.pairs
    rival, tuned = pairs.rival_values, pairs.tuned_values
    binary = all(value in (0, 1) for value in (*rival, *tuned))
    if not (contest.is_share and binary and contest.sign > 0):
        return 0
    if pairs.weights is not None or pairs.groups is not None:
        return 0
    wins = [row for row, (r, t) in enumerate(zip(rival, tuned, strict=True)) if t > r]
    for count, row in enumerate(wins, start=1):
        rival[row], tuned[row] = 1.0, 0.0
        found = compare(rival, tuned, higher_is_better=True, confidence=contest.confidence)
        if found.difference.value < margin or found.outcome != "better":
            return count
    return 0
