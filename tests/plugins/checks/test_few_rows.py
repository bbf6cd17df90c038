"""The check states before a run what the test rows can show; rows of a group count as one."""

from __future__ import annotations

from scipy.stats import binomtest

from tunesmith.records import Completion
from tunesmith_plugins.checks.few_rows import review


def rows(count: int, groups: int = 0) -> list[Completion]:
    return [
        Completion(
            source=f"f:{n}", prompt="q", completion="a", group=f"g{n % groups}" if groups else None
        )
        for n in range(count)
    ]


def test_a_warning_as_long_as_no_result_is_significant() -> None:
    fewest = next(n for n in range(1, 99) if binomtest(n, n).pvalue <= 0.05)
    for count in range(1, fewest):
        (found,) = review(rows(count))
        assert found.level == "warning" and f"at least {fewest} rows" in found.hint
    (found,) = review(rows(fewest))
    assert found.level == "info" and "can detect differences of 0.9" in found.message


def test_groups_count_not_rows() -> None:
    (found,) = review(rows(16, groups=2))
    assert found.level == "warning"
    assert "nothing can be concluded from 16 test rows of 2 groups" in found.message
    assert "at least 6 groups" in found.hint


def test_enough_rows_are_not_mentioned() -> None:
    assert [*review(rows(100))] == []
    assert [*review([])] == []
    (found,) = review(rows(150, groups=50))
    assert found.level == "info" and "150 test rows of 50 groups" in found.message
