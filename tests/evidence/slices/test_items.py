"""Rows that are worth reading."""

from __future__ import annotations

from tunesmith_evidence.slices.items import find_near_misses, find_regressed_rows, find_wrong_rows
from tunesmith_evidence.slices.rows import ScoredRow


def row(number: int, value: float, output: str = "", expected: str = "lost card") -> ScoredRow:
    return ScoredRow(
        number=number, source="a:1", prompt=(), expected=expected, output=output, value=value
    )


def test_wrong_rows_come_worst_first() -> None:
    rows = [row(0, 1.0), row(1, 0.5), row(2, 0.0), row(3, 0.0)]
    assert [r.number for r in find_wrong_rows(rows, True)] == [2, 3, 1]
    assert [r.number for r in find_wrong_rows(rows, False)] == [0, 1]
    assert [r.number for r in find_wrong_rows(rows, True, has_best=False)] == [2, 3]
    assert find_wrong_rows([], True) == []


def test_rows_on_which_the_base_model_was_better() -> None:
    rows = [row(0, 0.0), row(1, 0.5), row(2, 0.0), row(3, 0.0)]
    base = {n: row(n, value) for n, value in ((0, 0.5), (1, 0.4), (2, 1.0))}
    assert [r.number for r, _ in find_regressed_rows(rows, base, True)] == [2, 0]
    assert [r.number for r, _ in find_regressed_rows(rows, base, False)] == [1]


def test_near_misses() -> None:
    outputs = ["Lost card.", "it is lost card I think", "lost cards", "refund", ""]
    found = find_near_misses([row(n, 0.0, text) for n, text in enumerate(outputs)])
    assert [(r.number, what.split()[1]) for r, what in found] == [
        (0, "only"),
        (1, "the"),
        (2, "in"),
    ]
    (near,) = find_near_misses([row(0, 0.0, "lost crad")])
    assert near[1] == "differs in a few characters"
