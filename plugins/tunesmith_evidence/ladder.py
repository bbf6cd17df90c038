"""Measure the rivals of a run, and stop before the training.

A ladder is a run that is stopped: ``tunesmith resume`` trains in its folder, and does not measure
again what the ladder has measured.
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
from tunesmith.events import JSON, Measured, RivalChosen
from tunesmith.execution import execute
from tunesmith.execution.report import Report
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder

ENDED = "the rivals are measured; nothing is trained"
NO_LIMIT = "100000h"


@dataclass(frozen=True)
class Untrained:
    """A technique that opens models, and ends the run where the training would begin."""

    technique: Technique

    def train(self, job: Job[Any]) -> Artifact:
        """End the run.

        Raises:
            RunStopped: always.
        """
        raise RunStopped(ENDED)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the model as the technique does; see :class:`tunesmith.contracts.Technique`."""
        return self.technique.open(model, artifact, device=device)


@dataclass(frozen=True)
class Rung:
    """One rival of a ladder: its best variant, and its score on the held-out rows."""

    chosen: RivalChosen
    measured: Measured | None
    """None if it was skipped."""

    def to_json(self) -> JSON:
        """Return the rung as JSON."""
        measured, chosen = self.measured, self.chosen
        return {
            "rival": chosen.rival,
            "solution": chosen.solution,
            "variant": chosen.variant,
            "dev": chosen.dev_score,
            "dev_rows": chosen.dev_rows,
            "folds": chosen.folds,
            "variants": chosen.variants,
            "value": measured.value if measured else None,
            "low": measured.low if measured else None,
            "high": measured.high if measured else None,
            "n": measured.n if measured else 0,
            "seconds": self.seconds,
            "skipped": chosen.skipped,
        }

    @property
    def seconds(self) -> float:
        """The seconds of the choice and of the evaluation."""
        return self.chosen.seconds + (self.measured.seconds if self.measured else 0.0)


def list_overrides(rows: int, budget: str | None, only: Sequence[str]) -> list[str]:
    """Return the overrides of a run file with which its ladder is measured."""
    overrides = [f"baselines.rows={rows}", f'baselines.budget="{budget or NO_LIMIT}"']
    return [*overrides, *([f"baselines.use={json.dumps([*only])}"] if only else [])]


def measure_ladder(
    plan: Plan, catalog: Catalog, folder: RunFolder, *, resume: bool = False
) -> Report:
    """Measure the rivals of a plan in a run folder; return the report of the run so far."""
    offered = plan.technique.offered
    build = offered.offer.build
    offer = replace(offered.offer, build=lambda config: Untrained(build(config)))
    untrained = replace(plan.technique, offered=replace(offered, offer=offer))
    plan = replace(plan, technique=untrained, trains=False)  # `resume` predicts the training
    try:
        execute.run(plan, catalog, folder, resume=resume)
    except RunStopped as error:
        if error.message != ENDED:  # a signal, or a limit of the run
            raise
    return execute.load_report(folder)


def list_rungs(report: Report) -> list[Rung]:
    """Return the rungs of a ladder, the cheapest first, without the rivals that were not wanted."""
    wanted = [event for event in report.rivals.values() if not event.excluded]
    rungs = []
    for chosen in sorted(wanted, key=lambda event: (event.cost, event.rival)):
        key = (chosen.rival, chosen.evaluator, chosen.metric)
        rungs.append(Rung(chosen, report.measured.get(key)))
    return rungs
