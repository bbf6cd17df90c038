"""Measure a text model with the run's evaluators; keep every record's value.

Evaluators give one value per record. Aggregation, intervals, and the files with the single values
are the core's, so that every metric of every plugin is treated alike.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.contracts import (
    ComparingEvaluator,
    Generation,
    Measurement,
    Progress,
    RunSoFar,
    TextModel,
    TokenScores,
    sampling,
)
from tunesmith.errors import PluginError, TrainingError
from tunesmith.events import Measured
from tunesmith.execution.emitter import Telling
from tunesmith.plugins import blame
from tunesmith.records import Prompt, Record, last_exchange
from tunesmith.statistics import mean_interval
from tunesmith.storage import write_atomic

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer
    from tunesmith.plan import Component

FOLDER = "evaluations"


@dataclass(frozen=True)
class Watched:
    """A text model that tells how far it is; evaluators need not care."""

    model: TextModel
    tell: Progress
    records: int
    """To be measured; an evaluator may ask for more than one text of each."""

    def _share(self, asked: int) -> Progress:
        """Texts that are done, told as records that are done."""
        return lambda done: self.tell(done * self.records // max(asked, 1))

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Scores, with progress told to the run where the caller does not ask for it."""
        told = progress or self._share(len(prompts))
        return self.model.score(prompts, completions, progress=told)

    def generate(
        self, prompts: Sequence[Prompt], limit: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Answers, with progress told to the run where the caller does not ask for it."""
        told = progress or self._share(len(prompts))
        return self.model.generate(prompts, limit, progress=told)

    def sample(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Sequence[Generation]:
        """Drawn answers, where the model can draw.

        Raises:
            UsageError: it cannot.
        """
        told = progress or self._share(len(prompts))
        able = sampling(self.model)
        return able.sample(prompts, limit, seed=seed, temperature=temperature, progress=told)

    def score_drawn(
        self,
        prompts: Sequence[Prompt],
        drawn: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Scores of drawn answers, where the model can draw.

        Raises:
            UsageError: it cannot.
        """
        told = progress or self._share(len(prompts))
        return sampling(self.model).score_drawn(prompts, drawn, progress=told)


def measure(  # noqa: PLR0913 - what is measured, with what, and where it is told and kept
    label: str,
    model: TextModel,
    evaluator: Component[EvaluatorOffer[Any]],
    records: Sequence[Record],
    tell: Telling,
    run: RunSoFar,
    folder: Path,
) -> list[Measured]:
    """Run one evaluator on one model, store the single values, and tell the aggregates.

    Nothing is stored or told where an evaluator that compares had nothing to compare with.
    """
    started = time.perf_counter()
    offer = evaluator.offer
    with (
        tell.phase(f"{label}: {offer.name}", len(records)) as advance,
        blame(evaluator.offered.plugin),
    ):
        built = offer.build(evaluator.config)
        watched = Watched(model, advance, len(records))
        if isinstance(built, ComparingEvaluator):
            measurements = list(built.compare(watched, records, run))
        else:
            measurements = list(built.measure(watched, records))
    if not measurements:
        return []
    _check(measurements, evaluator, len(records))
    _check_finite(label, measurements, records)
    path = f"{FOLDER}/{label}.{offer.name}.jsonl"
    (folder / FOLDER).mkdir(exist_ok=True)
    write_atomic(folder / path, _lines(measurements, records))
    told = []
    for measurement, metric in _paired(measurements, evaluator):
        interval = mean_interval(measurement.values, measurement.weights, groups=_groups(records))
        event = Measured(
            model=label,
            evaluator=offer.name,
            metric=metric.name,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            n=interval.n,
            higher_is_better=metric.higher_is_better,
            seconds=time.perf_counter() - started,
            records=path,
            unit=metric.unit,
        )
        tell(event)
        told.append(event)
    return told


@dataclass(frozen=True)
class Values:
    """One metric of one model, record by record."""

    values: list[float]
    weights: list[float] | None
    """None: every record counts the same."""
    groups: list[str | None] | None
    """None: every record stands for itself."""


def read_values(path: Path, metric: str) -> Values:
    """What :func:`measure` wrote about one metric."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    weights = [row[metric]["weight"] for row in rows]
    groups = [row.get("group") for row in rows]
    return Values(
        values=[row[metric]["value"] for row in rows],
        weights=weights if len(set(weights)) > 1 else None,
        groups=groups if any(group is not None for group in groups) else None,
    )


def _groups(records: Sequence[Record]) -> list[str | None] | None:
    groups = [record.group for record in records]
    return groups if any(group is not None for group in groups) else None


def _paired(
    measurements: Sequence[Measurement], evaluator: Component[EvaluatorOffer[Any]]
) -> list[tuple[Measurement, Any]]:
    metrics = {metric.name: metric for metric in evaluator.offer.metrics}
    return [(m, metrics[m.metric]) for m in measurements]


def _check(
    measurements: Sequence[Measurement], evaluator: Component[EvaluatorOffer[Any]], n: int
) -> None:
    """Hold the evaluator to its contract: declared metrics, one value per record."""
    declared = {metric.name for metric in evaluator.offer.metrics}
    plugin = evaluator.offered.plugin.full_name
    for measurement in measurements:
        if measurement.metric not in declared:
            raise PluginError(
                f'plugin "{plugin}" measured "{measurement.metric}", which its offer does not name'
            )
        columns = {
            "values": measurement.values,
            "weights": measurement.weights,
            "outputs": measurement.outputs,
        }
        for what, column in columns.items():
            if column is not None and len(column) != n:
                raise PluginError(
                    f'plugin "{plugin}" gave {len(column)} {what} of '
                    f'"{measurement.metric}" for {n} records'
                )


def _check_finite(
    label: str, measurements: Sequence[Measurement], records: Sequence[Record]
) -> None:
    """A mean with one value that is no number says nothing: name the record instead."""
    for measurement in measurements:
        for value, record in zip(measurement.values, records, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"{label} model: {measurement.metric} of {record.source} is {value}, "
                    "not finite",
                    hint="the model's probabilities are broken: lower the learning rate, or set "
                    "precision = 'fp32'",
                )


def _lines(measurements: Sequence[Measurement], records: Sequence[Record]) -> str:
    lines = []
    for index, record in enumerate(records):
        line: dict[str, Any] = {"source": record.source, "expected": last_exchange(record)[1]}
        if record.group is not None:
            line["group"] = record.group
        if record.slices:
            line["slices"] = dict(record.slices)
        for m in measurements:
            weight = m.weights[index] if m.weights is not None else 1.0
            line[m.metric] = {"value": m.values[index], "weight": weight}
            if m.outputs is not None:
                line["output"] = m.outputs[index]
        lines.append(json.dumps(line, ensure_ascii=True) + "\n")
    return "".join(lines)
