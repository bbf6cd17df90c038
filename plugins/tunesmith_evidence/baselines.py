"""Measure the baselines of a run, and stop before training.

The run folder is a regular one whose run stops early. ``tunesmith resume`` can later train in it
without measuring the baselines again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.catalog import Catalog
from tunesmith.contracts import Artifact, Job, Technique, TextModel
from tunesmith.errors import RunStopped
from tunesmith.events import JSON, BaselineChosen, Measured
from tunesmith.execution import execute
from tunesmith.execution.report import Report
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder

__all__ = ["MeasuredBaseline", "list_baseline_overrides", "list_baselines", "measure_baselines"]

ENDED_MESSAGE = "the baselines are measured; no training was requested"
UNLIMITED_BUDGET = "100000h"


@dataclass(frozen=True)
class UntrainedTechnique:
    """A technique that opens models with the real technique, but stops the run before training."""

    technique: Technique

    def train(self, job: Job[Any]) -> Artifact:
        """Stop the run instead of training.

        Raises:
            RunStopped: always.
        """
        raise RunStopped(ENDED_MESSAGE)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the model with the real technique. See :class:`tunesmith.contracts.Technique`."""
        return self.technique.open(model, artifact, device=device)


@dataclass(frozen=True)
class MeasuredBaseline:
    """A baseline's best variant and its score on the test rows."""

    chosen: BaselineChosen
    measured: Measured | None
    """The score, or None if the baseline was skipped."""

    def to_json(self) -> JSON:
        """Return the baseline, with its variant and score, as a JSON object."""
        measured, chosen = self.measured, self.chosen
        return {
            "baseline": chosen.baseline,
            "solution": chosen.solution,
            "variant": chosen.variant,
            "validation": chosen.validation_score,
            "validation_rows": chosen.validation_rows,
            "folds": chosen.folds,
            "variants": chosen.variants,
            "omitted": chosen.omitted,
            "not_tried": chosen.not_tried,
            "value": measured.value if measured else None,
            "low": measured.low if measured else None,
            "high": measured.high if measured else None,
            "n": measured.n if measured else 0,
            "units": measured.units if measured else 0,
            "seconds": self.seconds,
            "skipped": chosen.skipped,
        }

    @property
    def seconds(self) -> float:
        """The time for choosing a variant and evaluating it, in seconds."""
        return self.chosen.seconds + (self.measured.seconds if self.measured else 0.0)


def list_baseline_overrides(rows: int, budget: str | None, only: Sequence[str]) -> list[str]:
    """Return run-file overrides for measuring baselines.

    Args:
        rows: number of test rows for each baseline.
        budget: time limit for the baselines; None: no limit.
        only: names of the baselines to measure; empty: all baselines.
    """
    overrides = [f"baselines.rows={rows}", f'baselines.budget="{budget or UNLIMITED_BUDGET}"']
    return [*overrides, *([f"baselines.use={json.dumps([*only])}"] if only else [])]


def measure_baselines(
    plan: Plan, catalog: Catalog, folder: RunFolder, *, resume: bool = False
) -> Report:
    """Measure the baselines of a plan in a run folder, and return the run's report."""
    offered = plan.technique.offered
    build = offered.offer.build
    offer = replace(offered.offer, build=lambda config: UntrainedTechnique(build(config)))
    untrained = replace(plan.technique, offered=replace(offered, offer=offer))
    plan = replace(plan, technique=untrained, trains=False)  # `resume` predicts training
    try:
        execute.run(plan, catalog, folder, resume=resume)
    except RunStopped as error:
        if error.message != ENDED_MESSAGE:  # a signal, or a limit of the run
            raise
    return execute.load_report(folder)


def list_baselines(report: Report) -> list[MeasuredBaseline]:
    """Return the measured baselines, the cheapest first, without excluded baselines."""
    wanted = [event for event in report.baselines.values() if not event.excluded]
    baselines = []
    for chosen in sorted(wanted, key=lambda event: (event.cost, event.baseline)):
        key = (chosen.baseline, chosen.evaluator, chosen.metric)
        baselines.append(MeasuredBaseline(chosen, report.measured.get(key)))
    return baselines
