"""Confidences on the test rows: groups of similar rows, and the rows above each threshold."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from review_rows import POLICY, write_review

from tunesmith.execution.report import build_report
from tunesmith_evidence.report.confidence import (
    MAX_THRESHOLDS,
    MIN_GROUP_ROWS,
    ConfidenceView,
    read_confidences,
)


def read(folder: Path, rows: Sequence[tuple[float, float]], **policy: float | None) -> object:
    numbered = dict(enumerate(rows))
    events = write_review(folder, numbered, replace(POLICY, **policy))  # type: ignore[arg-type]
    return read_confidences(folder, build_report(events))


def make_rows(count: int) -> list[tuple[float, float]]:
    rng = random.Random(7)
    confidences = [round(rng.uniform(0.01, 1), 2) for _ in range(count)]
    return [(confidence, float(rng.random() < confidence)) for confidence in confidences]


@pytest.mark.parametrize("count", [1, 15, 97, 400])
def test_every_row_is_in_one_group_and_above_the_thresholds_up_to_its_own(
    tmp_path: Path, count: int
) -> None:
    rows = make_rows(count)
    found = read(tmp_path, rows)
    assert isinstance(found, ConfidenceView)
    assert sum(group.right.n for group in found.groups) == count
    assert all(group.right.n >= min(count, MIN_GROUP_ROWS) for group in found.groups)
    means = [group.confidence for group in found.groups]
    assert means == sorted(means) and len(means) <= 10
    total = sum(group.confidence * group.right.n for group in found.groups)
    assert total == pytest.approx(sum(confidence for confidence, _ in rows))
    assert len(found.thresholds) <= MAX_THRESHOLDS + 1
    for threshold in found.thresholds:
        above = [value for confidence, value in rows if confidence >= threshold.confidence]
        assert threshold.right.n == len(above)
        assert threshold.right.value == pytest.approx(sum(above) / len(above))
    assert found.thresholds[0].confidence == max(confidence for confidence, _ in rows)
    assert found.thresholds[-1].right.n == count


def test_the_chosen_threshold_automates_at_most_what_the_run_does(tmp_path: Path) -> None:
    rows = [(n / 10, 1.0) for n in range(10)]
    found = read(tmp_path, rows, threshold=math.log(0.65 / 0.35))
    assert isinstance(found, ConfidenceView)
    assert found.thresholds[found.chosen].confidence == 0.7
    none = read(tmp_path, rows, threshold=None)
    assert isinstance(none, ConfidenceView) and none.chosen == 0


def test_rows_with_equal_confidence_share_a_group_and_a_threshold(tmp_path: Path) -> None:
    found = read(tmp_path, [(0.5, float(n % 2)) for n in range(60)])
    assert isinstance(found, ConfidenceView)
    assert [g.right.n for g in found.groups] == [g.right.n for g in found.thresholds] == [60]
    assert found.groups[0].right.value == 0.5


def test_an_answer_that_was_cut_off_is_above_no_threshold(tmp_path: Path) -> None:
    found = read(tmp_path, [(0.0, 1.0), (0.0, 0.0), (0.4, 1.0)])
    assert isinstance(found, ConfidenceView)
    assert [(t.confidence, t.right.n) for t in found.thresholds] == [(0.4, 1)]
    none = read(tmp_path, [(0.0, 0.0)] * 3, threshold=None)
    assert isinstance(none, ConfidenceView) and none.thresholds == [] and none.chosen == 0


def test_a_run_without_review_has_no_confidences(tmp_path: Path) -> None:
    measured, *_ = write_review(tmp_path, {0: (0.5, 1.0)})
    assert read_confidences(tmp_path, build_report([measured])) is None
