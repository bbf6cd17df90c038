"""Run pilots, which train with a run's technique on a random sample of its training rows."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.catalog import Catalog
from tunesmith.contracts import Dataset
from tunesmith.data.subset import Subset
from tunesmith.events import Measured
from tunesmith.execution import execute
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.execution.run_data import DataParts
from tunesmith.options import GateOptions
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder

__all__ = ["RowValue", "plan_pilot", "read_values", "run_pilot"]


@dataclass(frozen=True)
class _FixedRows:
    """A data loader for rows that are already in memory."""

    dataset: Dataset

    def load(self) -> Dataset:
        return self.dataset


@dataclass(frozen=True)
class RowValue:
    """A model's value on one test row."""

    value: float
    """Value of the deciding metric, in its unit."""
    weight: float = 1.0
    """Weight of the row in the mean, such as its number of tokens."""
    group: str | None = None
    """Group of dependent rows, or None if the row is independent of all others."""


def run_pilot(
    plan: Plan, catalog: Catalog, parts: DataParts, count: int, folder: RunFolder
) -> Report:
    """Train on ``count`` random training rows, and evaluate on the test rows of ``parts``."""
    return execute.run(plan_pilot(plan, parts, count), catalog, folder)


def plan_pilot(plan: Plan, parts: DataParts, count: int) -> Plan:
    """Return a plan for ``count`` random training rows, without baselines and thresholds.

    A larger pilot contains all rows of a smaller one.
    """
    order = list(range(len(parts.train)))
    random.Random(f"{plan.run.seed}/probe").shuffle(order)
    train = Subset(parts.train, sorted(order[:count]))
    validation = parts.validation if len(parts.validation) else None
    dataset = Dataset(
        train=train, validation=validation, test=parts.test, description=f"{count} training rows"
    )
    offered = plan.data.offered
    offer = replace(offered.offer, build=lambda config: _FixedRows(dataset))
    return replace(
        plan,
        run=plan.run.model_copy(update={"side_effects": False}),
        data=replace(plan.data, offered=replace(offered, offer=offer)),
        baseline_options=plan.baseline_options.model_copy(update={"use": []}),
        baselines=(),
        gate=GateOptions(must_beat=[], at_least={}, strict=False),
    )


def read_values(folder: Path, measured: Measured) -> dict[int, RowValue]:
    """Return the value of each test row by row number, without rows of weight 0.

    Raises:
        IntegrityError: the per-row results file is missing or damaged.
    """
    metric = measured.metric
    return {
        int(row.get("row", index)): RowValue(
            float(row[metric]["value"]), float(row[metric]["weight"]), row.get("group")
        )
        for index, row in enumerate(read_rows(folder / measured.records, metric))
        if row[metric]["weight"]
    }
