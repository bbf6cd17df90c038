"""The comparison of two runs: paired by content, against an independent computation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest

from tunesmith.errors import UsageError
from tunesmith_evidence.statistics import paired_difference
from tunesmith_python.comparison import compare_runs
from tunesmith_python.runs import Run


def rewrite(run: Run, folder: Path, change: object) -> Run:
    """Return a copy of a run whose rows of the tuned model are changed."""
    import shutil

    shutil.copytree(run.path, folder)
    path = folder / "evaluations" / "tuned.same.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = change(rows)  # type: ignore[operator]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Run(folder)


def test_the_difference_is_this_run_minus_the_other(good: Run, bad: Run) -> None:
    found = good.compare(bad)["same"]
    assert (found.first, found.second, found.difference, found.n) == (0.0, 1.0, 1.0, 8)
    assert found.low > 0 and found.outcome == "better" and found.p_value == 2 / 2**8
    assert found.p_value_holm == len(good.compare(bad)) * found.p_value and found.is_clear
    back = bad.compare(good)["same"]
    assert back.difference == -1.0 and back.outcome == "worse"
    assert math.isclose(back.low, -found.high) and math.isclose(back.high, -found.low)
    same = good.compare(good)["same"]
    assert same.difference == 0 and same.outcome == "unclear" and same.low < 0 < same.high


def test_the_interval_is_that_of_paired_values(good: Run, tmp_path: Path) -> None:
    rng = Random(3)
    values = [[float(rng.random() < share) for _ in range(8)] for share in (0.3, 0.8)]

    def put(column: list[float]) -> object:
        def change(rows: list[dict[str, object]]) -> list[dict[str, object]]:
            return [
                {**row, "same": {"value": value, "weight": 1.0}}
                for row, value in zip(rows, column, strict=True)
            ]

        return change

    first, second = (
        rewrite(good, tmp_path / str(index), put(column)) for index, column in enumerate(values)
    )
    found = second.compare(first, confidence=0.9)["same"]
    expected = paired_difference(*values, confidence=0.9)
    assert (found.difference, found.low, found.high) == (
        expected.value, expected.low, expected.high,
    )  # fmt: skip


def test_rows_are_paired_by_content_whatever_their_order(good: Run, tmp_path: Path) -> None:
    """A row with another answer or another weight is not the same row."""

    def change(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        rows = [dict(row) for row in rows]
        rows[0]["expected"] = "another answer"
        rows[1]["same"] = {"value": 1.0, "weight": 2.0}
        rows[2]["same"] = {"value": 0.0, "weight": 1.0}
        return [*reversed(rows)]

    other = rewrite(good, tmp_path / "other", change)
    found = other.compare(good)["same"]
    assert found.n == 6 and math.isclose(found.difference, -1 / 6)


def test_equal_rows_are_paired_in_their_order(good: Run, tmp_path: Path) -> None:
    def repeat(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return [rows[0], rows[0], rows[1]]

    twice = rewrite(good, tmp_path / "twice", repeat)
    assert twice.compare(twice)["same"].n == 3
    assert twice.compare(good)["same"].n == 2


def test_runs_without_a_common_row_or_metric_are_refused(good: Run, tmp_path: Path) -> None:
    def rename(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{**row, "prompt": f"other {number}"} for number, row in enumerate(rows)]

    other = rewrite(good, tmp_path / "other", rename)
    with pytest.raises(UsageError, match="no test rows in common"):
        compare_runs(good.path, other.path)
    (other.path / "events.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="have no metric in common"):
        compare_runs(good.path, other.path)


def test_as_json_and_as_html(good: Run, bad: Run) -> None:
    comparison = good.compare(bad)
    content = json.loads(json.dumps(comparison.to_json()))
    assert content["schema"] == "tunesmith.compare/1"
    assert content["metrics"]["same"]["difference"] == 1.0
    assert list(comparison) == ["same"] and len(comparison) == 1
    assert "<td>+1.000</td>" in comparison._repr_html_()
