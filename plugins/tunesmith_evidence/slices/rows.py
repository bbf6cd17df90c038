"""The evaluated rows that slices are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import JSON, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith_evidence.pairs import has_own_value

__all__ = ["ScoredRow", "find_row_metric", "to_rows"]

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """A test row with the model's answer and its value by one metric."""

    number: int
    """Number of the row in the test part."""
    source: str
    prompt: Turns
    """Role and text of each turn; empty in files of earlier versions."""
    expected: str
    output: str
    value: float
    """Value of the row by the metric, in its unit."""
    weight: float = 1.0
    """Weight of the row in the mean, such as its tokens."""
    group: str | None = None
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def question(self) -> str:
        """The last turn of the user; the last turn if there is none."""
        user = [text for role, text in self.prompt if role == "user"]
        return user[-1] if user else self.prompt[-1][1] if self.prompt else ""


def find_row_metric(folder: Path, report: Report, measured: Measured) -> Measured | None:
    """Return the measurement that judges rows one by one: by this metric, if it has such values.

    Of a metric of all rows together, as BLEU, it is by the first one of the same evaluator that has
    them; None if there is none.

    Raises:
        IntegrityError: the file with the values of the rows, below the folder, is lost or damaged.
    """
    lines = read_rows(folder / measured.records, measured.metric)
    events = [
        event
        for event in report.measured.values()
        if (event.model, event.evaluator) == (measured.model, measured.evaluator)
    ]
    judging = (e for e in (measured, *events) if all(has_own_value(x, e.metric) for x in lines))
    return next(judging, None)


def to_rows(lines: Sequence[JSON], metric: str) -> list[ScoredRow]:
    """Return the lines of a file of values as rows."""
    return [
        ScoredRow(
            number=int(line.get("row", position)),
            source=str(line.get("source", "")),
            prompt=_turns(line.get("prompt", ())),
            expected=str(line.get("expected", "")),
            output=str(line.get("output", "")),
            value=float(line[metric]["value"]),
            weight=float(line[metric]["weight"]),
            group=line.get("group"),
            columns=tuple((str(k), str(v)) for k, v in line.get("slices", {}).items()),
        )
        for position, line in enumerate(lines)
    ]


def _turns(prompt: object) -> Turns:
    if isinstance(prompt, str):
        return (("user", prompt),) if prompt else ()
    assert isinstance(prompt, list | tuple)
    return tuple((str(role), str(text)) for role, text in prompt)
