"""What training changed for the worse: held-out rows that the best baseline did better on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import JSON
from tunesmith.execution.report import Report
from tunesmith.execution.verdict import TUNED


@dataclass(frozen=True)
class Changed:
    """A held-out row on which base and tuned model differ."""

    source: str
    expected: str
    base: str
    tuned: str


def changed_rows(folder: Path, verdict: JSON, report: Report) -> list[Changed]:
    """Rows that the best baseline had right and the tuned model has wrong, by the first metric.

    Largest loss first.
    """
    metric, rival = str(verdict.get("metric")), str(verdict.get("rival"))
    events = {e.model: e for e in report.measured.values() if e.metric == metric}
    if rival not in events or TUNED not in events:
        return []
    sign = 1 if events[TUNED].higher_is_better else -1
    files = (_rows(folder / events[name].records) for name in (rival, TUNED))
    worse = []
    for before, after in zip(*files, strict=False):
        loss = sign * (float(before[metric]["value"]) - float(after[metric]["value"]))
        if loss > 0:
            said = (_said(before, metric), _said(after, metric))
            worse.append((loss, Changed(str(after["source"]), str(after["expected"]), *said)))
    worse.sort(key=lambda item: -item[0])
    return [changed for _, changed in worse]


def _said(row: JSON, metric: str) -> str:
    """What the model said about a row; where it said nothing, its value."""
    return str(row.get("output", f"{metric} {row[metric]['value']:.3g}"))


def _rows(path: Path) -> Iterator[JSON]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
