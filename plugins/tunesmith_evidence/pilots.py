"""Pilots: the technique of a run on a part of its training rows."""

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
    """A data loader whose rows are read already."""

    dataset: Dataset

    def load(self) -> Dataset:
        return self.dataset


@dataclass(frozen=True)
class RowValue:
    """The value of a model on a test row."""

    value: float
    """By the deciding metric, in its unit."""
    weight: float = 1.0
    """Share of the row in the mean, in any unit: its tokens, say."""
    group: str | None = None
    """Rows of one group depend on each other; None: the row is independent of all others."""


def run_pilot(
    plan: Plan, catalog: Catalog, parts: DataParts, count: int, folder: RunFolder
) -> Report:
    """Train on ``count`` random training rows, and evaluate on the test rows of ``parts``."""
    return execute.run(plan_pilot(plan, parts, count), catalog, folder)


def plan_pilot(plan: Plan, parts: DataParts, count: int) -> Plan:
    """Return the plan of a training on ``count`` random training rows, without baselines and gate.

    The rows of a smaller pilot are among those of a larger one.
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
        data=replace(plan.data, offered=replace(offered, offer=offer)),
        baseline_options=plan.baseline_options.model_copy(update={"use": []}),
        baselines=(),
        gate=GateOptions(must_beat=[], at_least={}),
    )


def read_values(folder: Path, measured: Measured) -> dict[int, RowValue]:
    """Return the value of each test row, by its number; rows of weight 0 do not count.

    Raises:
        IntegrityError: the file is lost or damaged.
    """
    metric = measured.metric
    return {
        int(row.get("row", index)): RowValue(
            float(row[metric]["value"]), float(row[metric]["weight"]), row.get("group")
        )
        for index, row in enumerate(read_rows(folder / measured.records, metric))
        if row[metric]["weight"]
    }
