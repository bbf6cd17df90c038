"""Rows of two evaluations are joined by their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.errors import IntegrityError
from tunesmith.events import Measured
from tunesmith_evidence.pairs import read_pairs


def evaluation(folder: Path, model: str, rows: list[dict[str, object]]) -> Measured:
    (folder / model).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Measured(
        model=model, evaluator="e", metric="right", value=0, low=0, high=0, n=len(rows),
        higher_is_better=True, seconds=0.0, records=model,
    )  # fmt: skip


def row(number: int | None, value: float, weight: float = 1.0, **more: object) -> dict[str, object]:
    numbered = {} if number is None else {"row": number}
    return {**numbered, "right": {"value": value, "weight": weight}, **more}


def test_rows_are_joined_by_number_in_any_order(tmp_path: Path) -> None:
    rival = evaluation(tmp_path, "zero-shot", [row(5, 1.0), row(2, 0.0)])
    tuned = evaluation(tmp_path, "tuned", [row(n, n / 10) for n in range(8)])
    pairs = read_pairs(tmp_path, rival, tuned)
    assert len(pairs) == 2
    assert (pairs.rival_values, pairs.tuned_values) == ([0.0, 1.0], [0.2, 0.5])
    assert pairs.weights is None and pairs.groups is None


def test_weights_and_groups_are_those_of_the_common_rows(tmp_path: Path) -> None:
    rival = evaluation(tmp_path, "zero-shot", [row(1, 1.0), row(2, 1.0)])
    tuned = evaluation(tmp_path, "tuned", [row(n, 0.0, n, group=f"g{n}") for n in (1, 2, 3)])
    pairs = read_pairs(tmp_path, rival, tuned)
    assert pairs.weights == [1.0, 2.0] and pairs.groups == ["g1", "g2"]


def test_rows_without_numbers_are_joined_by_position(tmp_path: Path) -> None:
    """Evaluations of earlier versions have all rows in one order."""
    rival = evaluation(tmp_path, "base", [row(None, 0.0), row(None, 1.0)])
    tuned = evaluation(tmp_path, "tuned", [row(0, 1.0), row(1, 0.0)])
    pairs = read_pairs(tmp_path, rival, tuned)
    assert (pairs.rival_values, pairs.tuned_values) == ([0.0, 1.0], [1.0, 0.0])


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    rival = evaluation(tmp_path, "zero-shot", [row(0, 1.0)])
    tuned = evaluation(tmp_path, "tuned", [{"row": 0}])
    with pytest.raises(IntegrityError, match="tuned:1"):
        read_pairs(tmp_path, rival, tuned)
