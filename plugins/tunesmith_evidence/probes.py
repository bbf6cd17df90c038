"""Probes: the technique of a run on a part of its training rows."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.catalog import Catalog
from tunesmith.contracts import Dataset
from tunesmith.data.subset import Subset
from tunesmith.events import Measured
from tunesmith.execution import execute
from tunesmith.execution.report import Report
from tunesmith.execution.run_data import DataParts
from tunesmith.options import GateOptions
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder


@dataclass(frozen=True)
class _FixedRows:
    """A data loader whose rows are read already."""

    dataset: Dataset

    def load(self) -> Dataset:
        return self.dataset


def run_probe(
    plan: Plan, catalog: Catalog, parts: DataParts, count: int, folder: RunFolder
) -> Report:
    """Train on ``count`` random training rows, and evaluate on the held-out rows of ``parts``.

    The rows of a smaller probe are among those of a larger one.
    """
    order = list(range(len(parts.train)))
    random.Random(f"{plan.run.seed}/probe").shuffle(order)
    train = Subset(parts.train, sorted(order[:count]))
    dev = parts.dev if len(parts.dev) else None
    dataset = Dataset(
        train=train, dev=dev, heldout=parts.heldout, description=f"{count} training rows"
    )
    offered = plan.data.offered
    offer = replace(offered.offer, build=lambda config: _FixedRows(dataset))
    probe = replace(
        plan,
        data=replace(plan.data, offered=replace(offered, offer=offer)),
        baselines=plan.baselines.model_copy(update={"use": []}),
        rivals=(),
        gate=GateOptions(must_beat=[], at_least={}),
    )
    return execute.run(probe, catalog, folder)


def read_values(folder: Path, measured: Measured) -> dict[int, float]:
    """Return the value of each held-out row, by its number."""
    values = {}
    for index, text in enumerate((folder / measured.records).read_text("utf-8").splitlines()):
        line: dict[str, Any] = json.loads(text)
        values[int(line.get("row", index))] = float(line[measured.metric]["value"])
    return values
