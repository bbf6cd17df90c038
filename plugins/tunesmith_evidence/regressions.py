"""Find regressions: held-out rows on which the strongest rival is better than the tuned model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import JSON, TUNED
from tunesmith.execution.report import Report
from tunesmith_evidence.pairs import read_pairs


@dataclass(frozen=True)
class Regression:
    """A held-out row that the tuned model scored worse on, with the outputs of both models."""

    source: str
    expected: str
    rival: str
    tuned: str


def find_regressions(folder: Path, verdict: JSON, report: Report) -> list[Regression]:
    """Find the rows that the verdict's rival scored better on, by the verdict's metric.

    The largest difference comes first.
    """
    metric, rival = str(verdict.get("metric")), str(verdict.get("rival"))
    measured = [e for e in report.measured.values() if e.metric == metric]
    # Verdicts of earlier versions do not name the evaluator: take the first of the metric.
    evaluator = verdict.get("evaluator") or next((e.evaluator for e in measured), None)
    events = {e.model: e for e in measured if e.evaluator == evaluator}
    if rival not in events or TUNED not in events:
        return []
    sign = 1 if events[TUNED].higher_is_better else -1
    pairs = read_pairs(folder, events[rival], events[TUNED])
    worse = []
    for before, after in zip(pairs.rival, pairs.tuned, strict=True):
        loss = sign * (float(before[metric]["value"]) - float(after[metric]["value"]))
        if loss > 0:
            outputs = (_output_text(before, metric), _output_text(after, metric))
            worse.append(
                (loss, Regression(str(after.get("source")), str(after.get("expected")), *outputs))
            )
    worse.sort(key=lambda item: -item[0])
    return [regression for _, regression in worse]


def _output_text(row: JSON, metric: str) -> str:
    """Return the model's output for a row, or the metric's value if there is no output."""
    return str(row.get("output", f"{metric} {row[metric]['value']:.3g}"))
