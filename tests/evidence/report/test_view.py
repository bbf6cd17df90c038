"""The view of a report: its metrics and scores as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunesmith.events import Measured
from tunesmith.execution.report import build_report
from tunesmith.testing import sample_event, sample_run
from tunesmith_evidence.report.view import MetricView, ReportView, ScoreRow


def test_the_metric_of_the_verdict_comes_first(tmp_path: Path) -> None:
    *events, end = sample_run("m")
    other = sample_event(Measured, "loss")
    verdict = {"metric": "loss", "evaluator": "loss"}
    report = build_report([*events, other, replace(end, verdict=verdict)])  # type: ignore[call-arg]
    metrics = ReportView(report, tmp_path).metrics
    assert [(m.label, len(m.events)) for m in metrics] == [("loss", 1), ("m", 3)]


def test_a_metric_says_what_it_measures_and_on_which_rows() -> None:
    event = sample_event(Measured, unit="nats/token", higher_is_better=False)
    assert MetricView("loss", [event]).description == "nats/token, lower is better"
    on_validation = MetricView("loss", [replace(event, part="validation", unit="")])
    assert (
        on_validation.description == "validation rows, lower is better"
        and on_validation.rows == "validation rows"
    )


def test_a_score_and_the_one_without_near_duplicates() -> None:
    values = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 90, "units": 30}
    row = ScoreRow.of(sample_event(Measured, n=120, leakage_free=values))
    assert (row.value, row.interval, row.rows) == ("0.750", "[0.650, 0.850]", "120")
    assert row.leakage_free == ScoreRow(
        f"{row.model}, leakage-free", "0.500", "[0.400, 0.600]", "90 of 30 groups"
    )
