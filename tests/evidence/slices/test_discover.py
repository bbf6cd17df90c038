"""Weak slices are discovered on one half of the rows and confirmed on the other."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from scipy.stats import fisher_exact
from tests.benchmarks.slices import PLANTS, draw, false_alarms, hide_topic, make_rows, recall

from tunesmith_evidence.slices.candidates import Slice
from tunesmith_evidence.slices.discover import (
    compute_weakness,
    find_weak_slices,
    split_in_halves,
)
from tunesmith_evidence.slices.rows import ScoredRow


@pytest.mark.parametrize("name", PLANTS)
def test_injected_slices_are_found(name: str) -> None:
    assert recall(name, rows=600, simulations=20, seed=11) >= 0.9


def test_false_alarms_are_rare() -> None:
    assert false_alarms(300, simulations=100, seed=5) <= 0.08


def test_rows_of_a_group_are_not_independent() -> None:
    assert false_alarms(400, simulations=60, seed=6, groups=60) <= 0.1


def row(number: int, value: float) -> ScoredRow:
    return ScoredRow(
        number=number, source=f"a:{number}", prompt=(), expected="", output="", value=value
    )


def test_scores_and_p_value_are_those_of_the_second_half() -> None:
    rows = [row(n, float(n % 4 != 0 if n < 100 else n % 10 != 0)) for n in range(300)]
    weak = Slice("first", "column", frozenset(range(100)))
    (found,) = find_weak_slices(rows, True, candidates=[weak], seed=2)
    assert 30 <= found.n <= 70  # about a half
    rest = len(split_in_halves(rows, 2)[1]) - found.n
    hits, others = round(found.value * found.n), round(found.others * rest)
    table = [[hits, found.n - hits], [others, rest - others]]
    assert found.p_value == pytest.approx(fisher_exact(table, alternative="less").pvalue)


def test_of_losses_a_slice_is_weak_if_it_is_higher() -> None:
    rng = random.Random(1)
    rows = [row(n, rng.expovariate(1) + (1.5 if n < 60 else 0)) for n in range(300)]
    slices = [
        Slice("high", "column", frozenset(range(60))),
        Slice("low", "column", frozenset(range(60, 300))),
    ]
    (found,) = find_weak_slices(rows, False, candidates=slices)
    assert found.slice.name == "high" and found.is_confirmed
    assert found.value > found.others
    assert [w.slice.name for w in find_weak_slices(rows, True, candidates=slices)] == ["low"]


def test_slices_that_overlap_are_tested_once() -> None:
    rng = random.Random(4)
    name = "column, 20 % of the rows"
    rows = hide_topic(draw(make_rows(600, rng), rng, PLANTS[name][2], 0.5))
    members = frozenset(i for i, r in enumerate(rows) if ("channel", "mail") in r.columns)
    same = [Slice("a", "column", members), Slice("b", "cluster", members - {min(members)})]
    assert len(find_weak_slices(rows, True, candidates=same)) == 1


def test_halves_keep_groups_and_too_few_rows_say_nothing() -> None:
    rows = [replace(row(n, float(n > 5)), group=f"g{n % 2}") for n in range(40)]
    assert (
        find_weak_slices(rows, True, candidates=[Slice("s", "column", frozenset(range(20)))]) == []
    )
    assert find_weak_slices([], True) == []


def test_a_row_stays_in_its_half_when_others_are_moved_to_training() -> None:
    rows = [row(n, 1.0) for n in range(200)]
    first, second = split_in_halves(rows)
    left = [each for n, each in enumerate(rows) if n not in first[:7]]
    kept = [left[i].number for i in split_in_halves(left)[1]]
    assert kept == second and sorted([*first, *second]) == list(range(200))
    groups = [replace(each, group=f"g{each.number % 20}") for each in rows]
    halves = [{groups[i].group for i in half} for half in split_in_halves(groups)]
    assert not halves[0] & halves[1] and all(halves)


def weakness(values: list[float], groups: dict[int, str], weights: list[float]) -> float:
    """Return the p-value of a slice that is the first half of the rows."""
    rows = [
        ScoredRow(
            number=n, source=f"a:{n}", prompt=(), expected="", output="", value=value,
            group=groups.get(n), weight=weight,
        )
        for n, (value, weight) in enumerate(zip(values, weights, strict=True))
    ]  # fmt: skip
    half = Slice("first", "column", frozenset(range(len(rows) // 2)))
    return compute_weakness(rows, range(len(rows)), half, 1.0)


@pytest.mark.parametrize("units", [5, 20])
@pytest.mark.parametrize(("low", "groups"), [(0.0, {0: "g", 1: "g"}), (0.5, {})])
def test_a_slice_whose_rows_are_all_worse_is_weak(
    units: int, low: float, groups: dict[int, str]
) -> None:
    rows = units + len(groups)
    p_value = weakness([low] * rows + [1.0] * rows, groups, [1.0] * 2 * rows)
    assert 0 < p_value < 0.02
    assert weakness([1.0] * rows + [low] * rows, groups, [1.0] * 2 * rows) > 0.98
    assert weakness([low] * 3 + [1.0] * 3, {}, [2.0] * 6) > 0.05


def test_equal_values_are_no_weakness_in_spite_of_rounding() -> None:
    order = random.Random(0)
    for _ in range(300):
        value, rows = order.random(), 2 * order.randint(4, 30)
        weights = [order.choice([1.0, 3.0, 7.0]) for _ in range(rows)]
        assert weakness([value] * rows, {}, weights) == 1


def test_the_groups_of_a_slice_are_counted() -> None:
    alone = [row(n, float(n >= 100 or n % 4 == 0)) for n in range(300)]
    pairs = [replace(each, group=f"g{each.number // 2}") for each in alone]
    weak = Slice("first", "column", frozenset(range(100)))
    (found,) = find_weak_slices(alone, True, candidates=[weak])
    assert found.units == found.n
    (found,) = find_weak_slices(pairs, True, candidates=[weak])
    assert 2 * found.units == found.n
