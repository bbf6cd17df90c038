"""The reference of a monitor: requests, confidences and errors when the model was evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.events import TUNED, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.execution.run_data import load_data
from tunesmith_data.splits import PromptTexts
from tunesmith_evidence.improvement import choose_verdict_metric
from tunesmith_evidence.review.policy import ReviewPolicy, find_policies
from tunesmith_monitor.traffic import Position, read_requests

CONFIDENCE = "confidence"


@dataclass(frozen=True)
class RunReference:
    """The rows and results of a run that its traffic is compared with."""

    train: Sequence[str]
    requests: Sequence[str]
    """Requests that the model was not trained on."""
    confidences: Sequence[float]
    """Calibrated confidences of the answers; empty if the run has no evaluator ``review``."""
    score: Measured | None
    """The share of right answers to the test rows, if the run measured one."""


def read_run(run: Path, *, files: Sequence[str] = (), disabled: Sequence[str] = ()) -> RunReference:
    """Read the reference from the validation and test rows of a run.

    Raises:
        UsageError: the run has no trained model.
    """
    folder, plan, _ = api.load_run(run, files=files, disabled=disabled)
    report = api.read_report(folder.path)
    if not report.training_finished:
        raise UsageError(f"{run}: the run has no trained model yet")
    parts = load_data(plan)[1]
    return RunReference(
        [*PromptTexts(parts.train)],
        [*PromptTexts(parts.validation), *PromptTexts(parts.test)],
        _read_confidences(folder.path, report),
        find_score(report),
    )


def find_policy(run: Path) -> ReviewPolicy | None:
    """Return the calibration of the run's model, if it has the evaluator ``review``."""
    return find_policies([*api.read_report(run).measured.values()]).get(TUNED)


def find_score(report: Report) -> Measured | None:
    """Return the measurement that the verdict is about, if it is a share of right answers."""
    key = choose_verdict_metric(report)
    measured = report.measured.get((TUNED, *key)) if key else None
    if measured is None or not measured.higher_is_better or measured.unit:
        return None
    return measured if measured.bounds in (None, (0, 1)) else None


def read_reference_file(path: Path, policy: ReviewPolicy | None) -> tuple[list[str], list[float]]:
    """Return the requests and confidences in a file of earlier traffic."""
    found = [request for request, _ in read_requests(path, Position(), policy) if request]
    return (
        [r.text for r in found if r.text is not None],
        [r.confidence for r in found if r.confidence is not None],
    )


def _read_confidences(folder: Path, report: Report) -> list[float]:
    for (model, _, metric), event in report.measured.items():
        if model == TUNED and metric == CONFIDENCE:
            return [float(r[metric]["value"]) for r in read_rows(folder / event.records, metric)]
    return []
