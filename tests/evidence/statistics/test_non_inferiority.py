"""Non-inferiority: error rates by simulation, and bounds against scipy."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from tunesmith_evidence.statistics.non_inferiority import (
    compare_shares,
    compare_with_margin,
    difference_of_shares,
)

UNBOUNDED = (-math.inf, math.inf)


def simulate(rng: random.Random, harm: float, n: int) -> str:
    base = [rng.gauss(3.0, 0.5) for _ in range(n)]
    tuned = [value + rng.gauss(harm, 0.1) for value in base]
    return compare_with_margin(base, tuned, 0.05, bounds=UNBOUNDED).outcome


@pytest.mark.parametrize("harm", [0.05, 0.0, 0.1])
def test_both_claims_are_wrong_in_at_most_one_of_twenty_cases(harm: float) -> None:
    """At the margin itself either claim would be wrong; away from it, 60 texts are enough."""
    rng = random.Random(f"harm {harm}")
    found = [simulate(rng, harm, 60) for _ in range(100 if harm == 0.05 else 25)]
    claims = {name: found.count(name) / len(found) for name in ("harmed", "not harmed")}
    if harm == 0.05:
        assert max(claims.values()) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(found))
    else:
        right = "harmed" if harm > 0.05 else "not harmed"
        assert claims[right] > 0.9 and sum(claims.values()) == claims[right]


def test_the_bounds_are_those_of_a_paired_t_test() -> None:
    rng = random.Random(1)
    base = [rng.gauss(0, 1) for _ in range(300)]
    tuned = [value + rng.gauss(0.2, 0.3) for value in base]
    found = compare_with_margin(base, tuned, 1.0, bounds=UNBOUNDED)
    exact = stats.ttest_rel(tuned, base).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=2e-3)
    assert found.resolved == pytest.approx(2.486 * 0.3 / math.sqrt(300), rel=0.1)


def test_weights_are_those_of_the_mean() -> None:
    found = compare_with_margin(
        [0.0] * 20, [1.0, 0.0] * 10, 2.0, weights=[3.0, 1.0] * 10, bounds=UNBOUNDED
    )
    assert found.value == pytest.approx(0.75)


def test_the_rows_that_it_names_decide() -> None:
    rng = random.Random(2)
    first = compare_with_margin([0.0] * 20, [0.34, -0.26] * 10, 0.1, bounds=UNBOUNDED)
    assert first.outcome == "unclear" and first.rows_needed is not None
    decided = 0
    for _ in range(50):
        again = [rng.gauss(first.value, 0.3) for _ in range(first.rows_needed)]
        found = compare_with_margin([0.0] * len(again), again, 0.1, bounds=UNBOUNDED)
        decided += found.outcome == "not harmed"
    assert decided >= 33


def test_a_few_rows_decide_nothing() -> None:
    assert compare_with_margin([0.0] * 9, [9.0] * 9, 0.1, bounds=UNBOUNDED).outcome == "unclear"
    assert compare_with_margin([0.0] * 10, [9.0] * 10, 0.1, bounds=UNBOUNDED).outcome == "harmed"
    [one] = [compare_with_margin([0.0], [9.0], 0.1, bounds=UNBOUNDED)]
    assert one.outcome == "unclear" and one.rows_needed is None and one.resolved is None


def test_shares_of_two_samples_by_hand() -> None:
    """Newcombe, Statist. Med. 17 (1998) 873, table II (a), method 10: 56/70 against 48/80."""
    ones = lambda hits, n: [1.0] * hits + [0.0] * (n - hits)  # noqa: E731
    found = compare_shares(ones(56, 70), ones(48, 80), 0.02)
    assert found.value == pytest.approx(0.2)
    z = 1.6449

    def wilson(hits: int, n: int) -> tuple[float, float]:
        share, shrink = hits / n, 1 + z * z / n
        middle = (share + z * z / (2 * n)) / shrink
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
        return middle - half, middle + half

    (l1, u1), (l2, u2) = wilson(56, 70), wilson(48, 80)
    assert found.low == pytest.approx(0.2 - math.hypot(0.8 - l1, u2 - 0.6), abs=1e-4)
    assert found.high == pytest.approx(0.2 + math.hypot(u1 - 0.8, 0.6 - l2), abs=1e-4)
    assert found.outcome == "harmed"
    both = difference_of_shares(ones(56, 70), ones(48, 80))
    assert (both.low, both.high) == pytest.approx((0.0524, 0.3339), abs=1e-4), "as published"
    assert compare_shares(ones(0, 200), ones(0, 200), 0.02).outcome == "not harmed"
    few = compare_shares(ones(0, 60), ones(0, 60), 0.02)
    assert few.outcome == "unclear" and few.rows_needed is not None
    enough = few.rows_needed // 2 + 5
    assert 60 < enough < 200
    assert compare_shares(ones(0, enough), ones(0, enough), 0.02).outcome == "not harmed"


def test_rows_of_a_group_count_once() -> None:
    """Ten groups of twenty equal rows show what ten rows show, not what two hundred do."""
    base, tuned = [0.0] * 200, [0.0] * 200
    groups = [f"g{row % 10}" for row in range(200)]
    assert compare_with_margin(base, tuned, 0.05).outcome == "not harmed"
    assert compare_with_margin(base, tuned, 0.05, groups=groups).outcome == "unclear"
    assert compare_shares(tuned, base, 0.05).outcome == "not harmed"
    found = compare_shares(tuned, base, 0.05, groups=(groups, None))
    assert found.outcome == "unclear" and found.n == 400
    wide = difference_of_shares(tuned, base, groups=(groups, groups))
    assert wide.high > difference_of_shares(tuned, base).high and wide.units == 20
    mixed = [float(row % 10 < 3) for row in range(200)]
    assert compare_with_margin(base, mixed, 0.05).outcome == "harmed"
    assert compare_with_margin(base, mixed, 0.05, groups=groups).outcome == "unclear"
