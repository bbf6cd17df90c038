"""Read test rows with a model's answers and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import JSON, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith_evidence.pairs import has_own_value

__all__ = ["ScoredRow", "find_row_metric", "to_scored_rows"]

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """A test row with a model's answer, and its value of one metric."""

    number: int
    """Row number within the test rows."""
    source: str
    prompt: Turns
    """Role and text of each turn; empty if the prompt was not stored (in earlier versions)."""
    expected: str
    output: str
    value: float
    """Value of the metric, in its unit."""
    weight: float = 1.0
    """Weight of the row in the mean, such as its number of tokens."""
    group: str | None = None
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def question(self) -> str:
        """The user's last turn, or the last turn of any role if the user has no turn."""
        user = [text for role, text in self.prompt if role == "user"]
        return user[-1] if user else self.prompt[-1][1] if self.prompt else ""


def find_row_metric(folder: Path, report: Report, measured: Measured) -> Measured | None:
    """Return a measurement with one value per row: ``measured`` itself, if it has such values.

    For a metric of all rows together, such as BLEU, return the first per-row measurement of the
    same model and evaluator.

    Returns:
        The measurement, or None if none has a value per row.

    Raises:
        IntegrityError: the per-row results file is missing or damaged.
    """
    lines = read_rows(folder / measured.records, measured.metric)
    events = [
        event
        for event in report.measured.values()
        if (event.model, event.evaluator) == (measured.model, measured.evaluator)
    ]
    judging = (e for e in (measured, *events) if all(has_own_value(x, e.metric) for x in lines))
    return next(judging, None)


def to_scored_rows(lines: Sequence[JSON], metric: str) -> list[ScoredRow]:
    """Convert the lines of a per-row results file to rows."""
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
