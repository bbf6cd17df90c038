"""Tests of what is known about a baseline while its variants are compared."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.contracts import BaselineVariant
from tunesmith.execution.baseline_candidates import BaselineCandidate, TimeBudget, TriedVariant
from tunesmith.testing.fakes import FakeTextModel


def variant(name: str) -> BaselineVariant:
    return BaselineVariant(name=name, model=FakeTextModel())


def test_the_best_comes_first_and_of_equal_ones_the_first() -> None:
    baseline: Any = None
    contender = BaselineCandidate(baseline)
    scores = {"a": [0.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}
    for place, (name, values) in enumerate(scores.items()):
        contender.left.append(TriedVariant(variant(name), place, values, [1.0, 1.0], rows=2))
    contender.tried = [*contender.left]
    assert [one.variant.name for one in contender.rank(1)] == ["b", "c", "a"]
    assert [one.variant.name for one in contender.rank(-1)] == ["a", "b", "c"]
    assert (contender.promise(1), contender.promise(-1)) == (1.0, -0.5)
    assert not contender.is_fresh and BaselineCandidate(baseline).is_fresh


def test_what_is_given_up_is_not_tried() -> None:
    baseline: Any = None
    contender = BaselineCandidate(baseline, untried=[(0, variant("a")), (1, variant("b"))])
    contender.give_up("no time")
    contender.reject("no rows")
    assert [(v["name"], v["reason"]) for v in contender.not_tried] == [
        ("a", "no time"),
        ("b", "no time"),
        ("", "no rows"),
    ]
    assert not contender.untried


@pytest.mark.parametrize(("left", "seconds", "is_covered"), [(5.0, 5.0, True), (5.0, 6.0, False)])
def test_a_budget_covers_what_is_left(left: float, seconds: float, is_covered: bool) -> None:
    assert TimeBudget(left).covers(seconds) is is_covered
    assert not TimeBudget(0.0).covers(0.0)
