"""The choice of a way: the best one, measured no longer than needed."""

from __future__ import annotations

import random
from typing import Any, cast

from tunesmith_plugins.baselines.fields.ways import WayTest, choose_way, list_ways


class KnownTest:
    """Rows on which it is known how often each way is right."""

    def __init__(self, right: dict[str, int], possible: dict[str, int]) -> None:
        self.right, self.possible = right, possible
        self.measured: list[str] = []

    def is_measured(self, way: str) -> bool:
        return way in self.measured

    def count_possible(self, way: str) -> int:
        return self.right[way] if way in self.measured else self.possible[way]

    def measure(self, way: str) -> None:
        self.measured.append(way)


def test_the_way_is_the_one_that_measuring_all_would_choose() -> None:
    rng = random.Random(1)
    saved = 0
    for _ in range(300):
        ways = list_ways(can_copy=rng.random() < 0.5)
        right = [{way: rng.randint(0, 6) for way in ways} for _ in range(5)]
        tests = [
            KnownTest(values, {way: rng.randint(value, 6) for way, value in values.items()})
            for values in right
        ]
        totals = {way: sum(values[way] for values in right) for way in ways}
        best = max(ways, key=lambda way: totals[way])
        assert choose_way(ways, cast("list[WayTest]", tests)) == (best, totals[best])
        saved += 5 * len(ways) - sum(len(test.measured) for test in tests)
    assert saved > 0


def test_without_rows_to_measure_on_it_is_the_simplest_way() -> None:
    nothing: list[Any] = []
    assert choose_way(list_ways(can_copy=True), nothing) == ("constant", 0)
