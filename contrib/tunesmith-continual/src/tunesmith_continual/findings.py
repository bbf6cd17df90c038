"""The findings about a chain: the matrix, side effects, and the budget's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.events import BASE, TUNED, Measured
from tunesmith.statistics import Interval
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_continual.budget import find_divergence
from tunesmith_continual.chain import Task
from tunesmith_continual.matrix import Matrix
from tunesmith_evidence.number_text import format_estimate, format_number

SIDE_EFFECTS = ("general-loss", "general-skills", "task-answers")
"""Metrics of what every run measures outside its task."""


@dataclass(frozen=True)
class ChainFindings:
    """The tasks of a chain, and the score on each task after each run."""

    chain: Sequence[Task]
    matrix: Matrix

    @property
    def side_effects(self) -> list[tuple[str, list[Measured | None]]]:
        """Each side effect of the base model, then after each task; None: not measured."""
        found = []
        for metric in SIDE_EFFECTS:
            stages = [(self.chain[0], BASE), *((task, TUNED) for task in self.chain)]
            values = [_find(task, model, metric) for task, model in stages]
            if any(values):
                found.append((metric, values))
        return found

    @property
    def prediction(self) -> tuple[float, float] | None:
        """The loss on earlier tasks in the last training: predicted by the divergence, and actual.

        None if no divergence or no slope is known.
        """
        measured, loss = find_divergence(self.chain[-1]), self.matrix.last_loss
        if measured is None or measured["predicted"] is None or loss is None:
            return None
        return measured["predicted"], loss

    @property
    def figures(self) -> list[tuple[str, Interval, bool]]:
        """Name, value and whether it is a difference, of each figure about the whole chain."""
        if self.matrix.obstacle:
            return []
        figures = [("average score", self.matrix.average, False)]
        if self.matrix.last:
            transfer, forgetting = self.matrix.backward_transfer, self.matrix.forgetting
            assert transfer is not None and forgetting is not None
            figures += [("backward transfer", transfer, True), ("forgetting", forgetting, True)]
        return figures

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON, ``tunesmith.continue/1``."""
        effects = {
            metric: [event and event.value for event in values]
            for metric, values in self.side_effects
        }
        predicted = self.prediction
        divergence = find_divergence(self.chain[-1])
        return {
            "schema": "tunesmith.continue/1",
            "runs": [str(task.path) for task in self.chain],
            **self.matrix.to_json(),
            "side_effects": effects,
            **({"kl": divergence["kl"]} if divergence else {}),
            **({"predicted_loss": predicted[0], "actual_loss": predicted[1]} if predicted else {}),
        }


def _find(task: Task, model: str, metric: str) -> Measured | None:
    events = task.report.measured.items()
    return next((e for (name, _, m), e in events if (name, m) == (model, metric)), None)


def describe(interval: Interval, signed: bool) -> str:
    """Return a value with its interval."""
    return format_estimate(interval.value, interval.low, interval.high, signed=signed)


def show_findings(findings: ChainFindings) -> None:
    """Print the matrix, the figures and the side effects."""
    matrix = findings.matrix
    names = [one_line(name, 24) for name in matrix.names]
    rows = [["base", *(_value(matrix.base.get(j)) for j in range(len(names)))]]
    for i, name in enumerate(names):
        rows.append([name, *(_value(matrix.cells.get((i, j))) for j in range(len(names)))])
    columns = [f"on {name}" for name in names]
    render.print_table(["after", *columns], rows, right=range(1, len(columns) + 1))
    render.print_text()
    for name, interval, signed in findings.figures:
        render.print_text(f"{name + ':':<20}{describe(interval, signed)}")
    if matrix.obstacle:
        render.print_paragraph(f"no mean over the tasks: {matrix.obstacle}")
    for j in range(matrix.last):
        change = describe(matrix.change(j, j, matrix.last), True)
        render.print_text(f"{names[j]}: {change} since it was trained")
    for metric, values in findings.side_effects:
        shown = " -> ".join(_value(event) or "?" for event in values)
        render.print_text(f"{metric + ':':<20}{shown}")
    if findings.prediction is not None:
        predicted, actual = map(format_number, findings.prediction)
        render.print_text(f"loss on earlier tasks: {predicted} predicted, {actual} measured")


def _value(event: Measured | None) -> str:
    return "" if event is None else format_number(event.value)
