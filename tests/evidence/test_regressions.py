"""Rows on which the tuned model is worse than the best baseline are found, the worst first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tunesmith.events import Measured
from tunesmith.execution.report import Report, build_report
from tunesmith_evidence.regressions import Regression, find_regressions

VERDICT = {"metric": "score", "rival": "random-shots"}


def report(folder: Path, higher_is_better: bool = True, outputs: bool = True) -> Report:
    """A report with values of four rows from a baseline and from the tuned model."""
    values = {"random-shots": (1.0, 0.5, 0.0, 1.0), "tuned": (1.0, 0.25, 1.0, 0.0)}
    events = []
    for model, scores in values.items():
        lines = []
        for row, value in enumerate(scores):
            line = {"source": f"rows:{row}", "expected": "yes"}
            line |= {"score": {"value": value, "weight": 1.0}}
            lines.append(line | ({"output": f"{model} {row}"} if outputs else {}))
        (folder / model).write_text("".join(json.dumps(line) + "\n" for line in lines))
        event = Measured(
            model=model,
            evaluator="e",
            metric="score",
            value=0.5,
            low=0.0,
            high=1.0,
            n=4,
            higher_is_better=higher_is_better,
            seconds=0.0,
            records=model,
        )
        events.append(event)
    return build_report(events)


def test_the_worst_row_comes_first_with_both_outputs(tmp_path: Path) -> None:
    assert find_regressions(tmp_path, VERDICT, report(tmp_path)) == [
        Regression("rows:3", "yes", "random-shots 3", "tuned 3"),
        Regression("rows:1", "yes", "random-shots 1", "tuned 1"),
    ]


def test_a_metric_where_lower_is_better(tmp_path: Path) -> None:
    found = find_regressions(tmp_path, VERDICT, report(tmp_path, higher_is_better=False))
    assert [regression.source for regression in found] == ["rows:2"]


def test_without_outputs_the_values_are_shown(tmp_path: Path) -> None:
    first = find_regressions(tmp_path, VERDICT, report(tmp_path, outputs=False))[0]
    assert (first.rival, first.tuned) == ("score 1", "score 0")


def test_rows_are_those_of_the_evaluator_of_the_verdict(tmp_path: Path) -> None:
    """A second evaluator of the same metric has other values, and is measured later."""
    found = report(tmp_path)
    for event in list(found.measured.values()):
        (tmp_path / f"{event.model}.other").write_text((tmp_path / "tuned").read_text())
        found.add_event(replace(event, evaluator="other", records=f"{event.model}.other"))
    assert len(find_regressions(tmp_path, {**VERDICT, "evaluator": "e"}, found)) == 2
    assert len(find_regressions(tmp_path, VERDICT, found)) == 2
    assert find_regressions(tmp_path, {**VERDICT, "evaluator": "other"}, found) == []


def test_without_a_baseline_there_is_nothing_to_find(tmp_path: Path) -> None:
    assert not find_regressions(tmp_path, {}, report(tmp_path))
    assert not find_regressions(tmp_path, {**VERDICT, "rival": "zero-shot"}, report(tmp_path))
