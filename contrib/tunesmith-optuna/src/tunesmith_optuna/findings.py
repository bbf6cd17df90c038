"""Collect and print the results of a search: its trials, the best one, and its lead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.events import JSON
from tunesmith.text import format_count, format_duration, one_line, redact
from tunesmith_cli import render
from tunesmith_evidence.number_text import format_interval, format_number, format_rate, format_share
from tunesmith_optuna.space import Choices, Dimension, Space
from tunesmith_optuna.trial_run import Objective

BEST_FILE = "best.toml"
"""Run file with the best options, in the search folder."""
REASON_LENGTH = 400


@dataclass(frozen=True)
class Result:
    """The score of a finished trial, with its 95 % interval and number of validation rows."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Row:
    """A trial, with the values that a row of the results table shows."""

    number: int
    state: str
    """``complete``, ``pruned``, ``failed`` or ``running``."""
    options: Mapping[str, Any]
    result: Result | None = None
    seconds: float = 0.0
    reason: str = ""

    def to_json(self) -> JSON:
        """Return the trial as JSON."""
        result = self.result
        return {
            "number": self.number,
            "state": self.state,
            "options": dict(self.options),
            "value": result.value if result else None,
            "low": result.low if result else None,
            "high": result.high if result else None,
            "rows": result.n if result else None,
            "seconds": self.seconds,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class SearchResult:
    """The trials of a search, their ranking, and how much each option affects the score."""

    folder: Path
    objective: Objective
    names: Mapping[str, str]
    """Short names of the options, by key."""
    rows: Sequence[Row]
    """All trials, in the order they started."""
    ranking: Sequence[Row]
    """Trials with a score, the best first."""
    importances: Mapping[str, float]
    """Share of the score differences that each option explains; empty if there are few trials."""
    own: Mapping[str, Any] | None = None
    """The run file's own options, if the search space contains them."""

    @property
    def run_file(self) -> Path:
        """The path of the run file with the best options."""
        return self.folder / BEST_FILE

    @property
    def metric(self) -> str:
        """The name of the metric that the search optimizes."""
        return one_line(self.objective.metric.name, 40)

    def describe_best(self) -> str:
        """Return sentences that name the best trial, and state why its score is optimistic."""
        best = self.ranking[0]
        assert best.result is not None
        value, rows = (
            format_number(best.result.value),
            format_count(best.result.n, "validation row"),
        )
        text = f"Best: trial {best.number}, {self.metric} {value} on {rows}{self._compare_own()}"
        if len(self.ranking) == 1:
            return f"{text}. No other trial has a score to compare with."
        count = len(self.ranking)
        text += f". Being the best of {count} is partly luck, so expect a worse score on other rows"
        if within := self.count_within():
            verb = "is" if within == 1 else "are"
            which = f"{within} of the {count - 1} other trials {verb}"
            if within == count - 1:
                which = "all other trials are"
            text += f"; {which} in its 95 % interval"
        return f"{text}. Test rows were not used."

    def count_within(self) -> int:
        """Count the other trials whose score is within the interval of the best trial."""
        best = self.ranking[0].result
        assert best is not None
        values = [row.result.value for row in self.ranking[1:] if row.result]
        return sum(best.low <= value <= best.high for value in values)

    def _compare_own(self) -> str:
        found = next((row for row in self.ranking if row.options == self.own), None)
        if found is None or found.result is None:
            return ""
        if found is self.ranking[0]:
            return ", the run file's own options"
        value = format_number(found.result.value)
        return f"; the run file's own options, trial {found.number}: {value}"

    def to_json(self) -> JSON:
        """Return the results of the search as JSON."""
        metric = self.objective.metric
        return {
            "schema": "tunesmith.tune/1",
            "folder": str(self.folder),
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "part": "validation",
            "best": self.ranking[0].number if self.ranking else None,
            "run_file": str(self.run_file) if self.ranking else None,
            "importances": dict(self.importances),
            "trials": [row.to_json() for row in self.rows],
        }


def show_search_result(found: SearchResult) -> None:
    """Print the trials, the best first, and how to train with the best options."""
    render.print_text()
    show_trials(found)
    if found.importances:
        shares = sorted(found.importances.items(), key=lambda item: -item[1])
        texts = [f"{found.names[key]} {format_share(share)}" for key, share in shares]
        render.print_text()
        render.print_paragraph(f"Importance (share of the score variance): {', '.join(texts)}.")
    if found.ranking:
        render.print_text()
        render.print_paragraph(found.describe_best())
        render.print_text()
        render.print_text(f"run file: {found.run_file}")
        render.print_note(
            "\nTrain with these options and score on the test rows:\n"
            f"  tunesmith run {render.shell_path(found.run_file)}"
        )


def show_trials(found: SearchResult) -> None:
    """Print a table of the trials, followed by the reasons why some have no score."""
    rest = [row for row in found.rows if row.result is None]
    cells: list[list[str]] = []
    for row in [*found.ranking, *rest]:
        value = format_number(row.result.value) if row.result else row.state
        interval = format_interval(row.result.low, row.result.high) if row.result else ""
        options = [format_option(row.options[key]) for key in found.names]
        cells.append([str(row.number), *options, value, interval, format_duration(row.seconds)])
    headers = ["trial", *found.names.values(), found.metric, "95 % interval", "time"]
    right = (0, *range(len(found.names) + 1, len(headers)))
    render.print_table(headers, cells, right=right)
    if reasons := [row for row in rest if row.reason]:
        render.print_text()
        for row in reasons:
            render.print_paragraph(f"trial {row.number} {describe_state(row)}")


def describe_state(row: Row) -> str:
    """Return the state of a trial as a phrase, with its reason."""
    reason = one_line(redact(row.reason), REASON_LENGTH)
    return f"{row.state}: {reason}" if reason else row.state


def shorten_keys(space: Space) -> dict[str, str]:
    """Return a short unique name for each option, made of the last words of its key."""
    keys = [dimension.key for dimension in space.dimensions]
    names = {}
    for key in keys:
        words = key.split(".")
        candidates = (".".join(words[-n:]) for n in range(1, len(words) + 1))
        names[key] = next(
            name
            for name in candidates
            if sum(f".{other}".endswith(f".{name}") for other in keys) == 1
        )
    return names


def describe_values(dimension: Dimension) -> str:
    """Return the values of an option in the search space as text."""
    if isinstance(dimension, Choices):
        return ", ".join(format_option(value) for value in dimension.values)
    text = f"{format_option(dimension.low)} to {format_option(dimension.last)}"
    if dimension.step is not None:
        return f"{text} in steps of {format_option(dimension.step)}"
    return f"{text}, logarithmic" if dimension.log else text


def format_option(value: Any) -> str:
    """Format an option's value for a line or a table cell."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return one_line(format_rate(value) if isinstance(value, float) else str(value), 40)
