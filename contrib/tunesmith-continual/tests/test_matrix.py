"""The matrix and its figures, against hand-computed numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.events import Measured
from tunesmith.statistics import Interval, mean_interval
from tunesmith_continual.budget import Point, fit_slope, predict_loss
from tunesmith_continual.matrix import Matrix, combine, compare_rows
from tunesmith_evidence.statistics import compare

ROWS = {
    (0, 0): [1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
    (1, 0): [1, 1, 1, 1, 1, 0, 0, 0, 0, 1],
    (2, 0): [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    (1, 1): [0, 1, 0, 1, 0, 1, 0, 1, 0, 1],
    (2, 1): [1, 1, 0, 1, 0, 1, 0, 1, 0, 1],
    (2, 2): [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
}
"""Right and wrong answers of three models on ten test rows of each task."""


def measured(path: Path, values: list[float], **changes: Any) -> Measured:
    """Write the values of rows, and return the event with their absolute path."""
    lines = [
        json.dumps({"row": n, "score": {"value": float(v), "weight": 1.0}}) + "\n"
        for n, v in enumerate(values)
    ]
    path.write_text("".join(lines), encoding="utf-8")
    mean = mean_interval([float(v) for v in values])
    fields: dict[str, Any] = {
        "model": "tuned", "evaluator": "score", "metric": "score", "value": mean.value,
        "low": mean.low, "high": mean.high, "n": mean.n, "units": mean.units,
        "higher_is_better": True, "seconds": 1.0, "records": str(path),
    }  # fmt: skip
    return Measured(**{**fields, **changes})


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    cells = {
        cell: measured(tmp_path / "{}-{}.jsonl".format(*cell), values)
        for cell, values in ROWS.items()
    }
    return Matrix(["a", "b", "c"], cells, {}, {})


def test_the_figures_equal_hand_computed_ones(matrix: Matrix) -> None:
    """R = [[.9], [.6, .5], [.2, .6, .8]]."""
    assert [event.value for event in matrix.diagonal] == pytest.approx([0.9, 0.5, 0.8])
    assert matrix.average.value == pytest.approx((0.2 + 0.6 + 0.8) / 3)
    transfer, forgetting = matrix.backward_transfer, matrix.forgetting
    assert transfer is not None and transfer.value == pytest.approx((-0.7 + 0.1) / 2)
    assert forgetting is not None and forgetting.value == pytest.approx((0.7 - 0.1) / 2)
    assert transfer.n == 20


def test_forgetting_counts_from_the_best_score(tmp_path: Path) -> None:
    """Here the second task improved the first one, so more was forgotten than was transferred."""
    rows = {**ROWS, (0, 0): [1] * 4 + [0] * 6, (1, 0): [1] * 9 + [0]}
    cells = {c: measured(tmp_path / "{}{}".format(*c), v) for c, v in rows.items()}
    matrix = Matrix(["a", "b", "c"], cells, {}, {})
    assert matrix.best_before(0) == 1
    assert matrix.backward_transfer is not None and matrix.forgetting is not None
    assert matrix.backward_transfer.value == pytest.approx((0.2 - 0.4 + 0.1) / 2)
    assert matrix.forgetting.value == pytest.approx((0.9 - 0.2 - 0.1) / 2)


def test_intervals_are_paired_by_row(matrix: Matrix) -> None:
    change = matrix.change(0, 0, 2)
    expected = compare([float(v) for v in ROWS[0, 0]], [float(v) for v in ROWS[2, 0]], True)
    assert change == expected.difference
    assert change.high < 0, "7 of 10 rows are lost"


def test_a_mean_over_tasks_combines_their_intervals(matrix: Matrix) -> None:
    """MOVER, computed by hand from the two paired intervals."""
    first, second = matrix.change(0, 0, 2), matrix.change(1, 1, 2)
    transfer = matrix.backward_transfer
    assert transfer is not None
    below = math.sqrt((first.value - first.low) ** 2 + (second.value - second.low) ** 2) / 2
    above = math.sqrt((first.high - first.value) ** 2 + (second.high - second.value) ** 2) / 2
    assert transfer.low == pytest.approx(transfer.value - below)
    assert transfer.high == pytest.approx(transfer.value + above)


def test_the_combined_interval_covers_the_mean() -> None:
    """Nominally 95 % of simulated pairs of tasks, whose intervals are Wilson's."""
    from random import Random

    rng, covered = Random(1), 0
    for _ in range(400):
        parts = []
        for share in (0.3, 0.8):
            parts.append(mean_interval([float(rng.random() < share) for _ in range(40)]))
        found = combine(parts)
        covered += found.low <= 0.55 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_a_loss_improves_when_it_falls(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"higher_is_better": False, "unit": "nats/token", "lowest": 0.0}
    first = measured(tmp_path / "a", [2.0, 2.5, 3.0, 2.2], **changes)
    second = measured(tmp_path / "b", [1.0, 1.4, 2.1, 1.2], **changes)
    assert compare_rows(first, second).value == pytest.approx(1.0)
    assert compare_rows(second, first).value == pytest.approx(-1.0)


def test_scores_in_different_units_have_no_mean(tmp_path: Path, matrix: Matrix) -> None:
    loss = measured(tmp_path / "loss", [1.0, 2.0], unit="nats/token", higher_is_better=False)
    mixed = Matrix(matrix.names, {**matrix.cells, (2, 2): loss}, {}, {})
    assert "different units" in mixed.obstacle
    assert "average_accuracy" not in mixed.to_json() and mixed.to_json()["no_mean"]
    assert mixed.last_loss is None and matrix.last_loss == pytest.approx((0.4 - 0.1) / 2)


def test_what_a_chain_can_lose_is_its_mean_score(matrix: Matrix) -> None:
    assert matrix.score_after(0) is None, "a score without a lowest value can lose any amount"
    cells = {at: replace(event, lowest=0.0) for at, event in matrix.cells.items()}
    limited = replace(matrix, cells=cells)
    for training in (0, 1):
        scores = [cells[training, task].value for task in range(training + 1)]
        assert limited.score_after(training) == pytest.approx(sum(scores) / len(scores))
    lower = {at: replace(event, higher_is_better=False) for at, event in cells.items()}
    assert replace(matrix, cells=lower).score_after(0) is None


def test_a_single_task_has_only_an_average(matrix: Matrix) -> None:
    single = Matrix(["a"], {(0, 0): matrix.cells[0, 0]}, {}, {})
    assert single.backward_transfer is single.forgetting is None
    assert single.to_json()["average_accuracy"]["value"] == pytest.approx(0.9)


def test_one_interval_is_its_own_mean() -> None:
    interval = Interval(0.5, 0.4, 0.7, 10, 10)
    assert combine([interval]) == interval


def test_the_slope_is_that_of_least_squares() -> None:
    """Without a limit, the line has a closed form; near 0 the curve is that line."""
    for points in ([(1.0, 0.2), (2.0, 0.4)], [(1.0, 0.3), (2.0, 0.4)], [(1e-3, 5.0)]):
        exact = sum(kl * loss for kl, loss in points) / sum(kl * kl for kl, _ in points)
        assert fit_slope([Point(*point) for point in points]) == pytest.approx(exact, rel=1e-3)
    assert fit_slope([]) is None and fit_slope([Point(1.0, -0.1)]) is None
    assert fit_slope([Point(0.0, 0.5)]) is None


@pytest.mark.parametrize("slope", [0.3, 4.0])
def test_a_score_cannot_lose_more_than_it_is(slope: float) -> None:
    points = [Point(kl, 0.8 * (1 - math.exp(-slope * kl / 0.8)), 0.8) for kl in (0.05, 0.5, 3.0)]
    found = fit_slope(points)
    assert found == pytest.approx(slope, rel=1e-3)
    assert predict_loss(1e9, slope, 0.8) == 0.8 and predict_loss(1.0, slope, 0.0) == 0
    assert predict_loss(1e-6, slope, 0.8) == pytest.approx(slope * 1e-6, rel=1e-4)
