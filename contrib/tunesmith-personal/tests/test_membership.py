"""The membership test: its numbers by hand, what it finds, and what it does not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import NormalDist, stdev

import pytest
from people import invoke

from tunesmith_personal.membership import Drops, estimate_membership


def simulate(gap: float, users: int, seed: str) -> list[Drops]:
    """Return drops that are ``gap`` standard deviations larger for training rows."""
    rng = random.Random(seed)
    return [
        ([rng.gauss(gap, 1) for _ in range(12)], [rng.gauss(0, 1) for _ in range(4)])
        for _ in range(users)
    ]


def test_the_numbers_by_hand() -> None:
    users: list[Drops] = [([3.0, 1.0], [2.0]), ([2.0, 2.0], [2.0, 1.0]), ([5.0], [1.0])]
    found = estimate_membership(users)
    areas = [0.5, 0.75, 1.0]
    half = NormalDist().inv_cdf(0.975) * stdev(areas) / 3**0.5
    assert found.users == 3 and found.auc == pytest.approx(0.75)
    assert (found.low, found.high) == pytest.approx((0.75 - half, min(1.0, 0.75 + half)))
    assert found.recognized == pytest.approx(2 / 5)


def test_rows_that_cannot_be_told_apart_are_found_apart_in_one_of_twenty_tests() -> None:
    found = [estimate_membership(simulate(0.0, 40, f"same {n}")) for n in range(300)]
    wrong = sum(each.low > 0.5 or each.high < 0.5 for each in found)
    assert wrong <= 0.09 * len(found)
    assert sum(each.recognized for each in found) / len(found) == pytest.approx(0.05, abs=0.015)


def test_the_stated_power_is_reached() -> None:
    """With drops as far apart as the test says that it finds."""
    stated = estimate_membership(simulate(0.0, 40, "plan")).detectable
    gap = NormalDist().inv_cdf(stated) * 2**0.5  # the AUC of two normal distributions
    found = [estimate_membership(simulate(gap, 40, f"gap {n}")) for n in range(200)]
    assert sum(each.low > 0.5 for each in found) >= 0.7 * len(found)


def test_a_run_is_tested(finished: Path) -> None:
    found = json.loads(invoke("adapters", "membership", finished, "--json").output)
    for name in ("shared", "own"):
        assert found[name]["users"] >= 15
        assert found[name]["low"] <= found[name]["auc"] <= found[name]["high"]
    shown = invoke("adapters", "membership", finished, "--users", "3")
    assert shown.exit_code == 0 and "own" in shown.output and "shared" in shown.output
