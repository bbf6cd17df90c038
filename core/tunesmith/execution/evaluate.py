"""Evaluate a text model with an evaluator of the run, and store the value of every record.

Evaluators return one value per record. The core computes means and intervals and writes the files
with the values per record, so that the metrics of all plugins are treated alike.
"""

from __future__ import annotations

import json
import math
import numbers
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.contracts import (
    ComparingEvaluator,
    Measurement,
    Progress,
    RunContext,
    TextModel,
)
from tunesmith.errors import PluginError, TrainingError
from tunesmith.events import Measured, Notice
from tunesmith.execution.check_records import check_unchanged
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.wrapped_model import CheckedModel, WrappedModel
from tunesmith.global_state import preserve_global_state
from tunesmith.offered import Plugin
from tunesmith.plugins import attribute_errors_to
from tunesmith.records import Record, last_exchange
from tunesmith.statistics import mean_interval
from tunesmith.storage import write_atomic

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer
    from tunesmith.plan import Component

EVALUATIONS_FOLDER = "evaluations"


@dataclass(frozen=True)
class ProgressTextModel(WrappedModel):
    """A text model that reports its progress to the run unless its caller passes ``progress``.

    So evaluators need not report it.
    """

    report_progress: Progress
    record_count: int
    """Records to evaluate. An evaluator may request several texts for each of them."""

    def _progress(self, progress: Progress | None, count: int) -> Progress:
        """Convert finished texts into finished records."""
        return progress or (
            lambda done: self.report_progress(done * self.record_count // max(count, 1))
        )


def evaluate_model(  # noqa: PLR0913 - a model, an evaluator, records, and where results go
    label: str,
    model: TextModel,
    evaluator: Component[EvaluatorOffer[Any]],
    records: Sequence[Record],
    emit: Emitter,
    run: RunContext,
    folder: Path,
    technique: Plugin | None = None,
) -> list[Measured]:
    """Run one evaluator on one model, store the values per record, and emit each metric.

    ``technique`` is the plugin that the models come from, for messages about their errors.

    Returns:
        The emitted events; none for an evaluator that had no other model to compare with.

    Raises:
        PluginError: the evaluator returned metrics it does not declare, too few values, or values
            of another type; or the plugin of the technique raised.
        TrainingError: the model's scores are not finite.
    """
    started = time.perf_counter()
    offer = evaluator.offer
    plugin, content = evaluator.offered.plugin, [*map(hash, records)]
    with (
        emit.phase(f"{label}: {evaluator.id}", len(records)) as report_progress,
        attribute_errors_to(plugin),
        preserve_global_state() as changes,
    ):
        built = offer.build(evaluator.config)
        models = [CheckedModel(model, technique)]
        tracked_model = ProgressTextModel(models[0], report_progress, len(records))

        def open_checked(artifact: Path | None) -> TextModel:
            models.append(CheckedModel(run.open(artifact), technique))
            return models[-1]

        if isinstance(built, ComparingEvaluator):
            returned = built.compare(tracked_model, records, replace(run, open=open_checked))
        else:
            returned = built.measure(tracked_model, records)
        measurements: list[Measurement] = list(returned)
    if changes:
        text = f"evaluator {evaluator.id} changed {', '.join(changes)}; restored"
        emit(Notice(level="warning", source=plugin.full_name, message=text))
    check_unchanged(content, records, plugin)
    if not measurements:
        return []
    measurements = _check_measurements(measurements, evaluator, records)
    _check_finite(label, measurements, records, models, plugin)
    path = f"{EVALUATIONS_FOLDER}/{label}.{evaluator.id}.jsonl"
    (folder / EVALUATIONS_FOLDER).mkdir(exist_ok=True)
    write_atomic(folder / path, _to_json_lines(measurements, records))
    events = []
    for measurement, metric in _pair_with_metrics(measurements, evaluator):
        interval = mean_interval(
            measurement.values, measurement.weights, groups=_groups_of(records)
        )
        event = Measured(
            model=label,
            evaluator=evaluator.id,
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
        emit(event)
        events.append(event)
    return events


@dataclass(frozen=True)
class MetricValues:
    """The values of one metric of one model, one per record."""

    values: list[float]
    weights: list[float] | None
    """None: all records have the same weight."""
    groups: list[str | None] | None
    """None: all records are independent of each other."""


def read_metric_values(path: Path, metric: str) -> MetricValues:
    """Read back the values of one metric that :func:`evaluate_model` wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    weights = [row[metric]["weight"] for row in rows]
    groups = [row.get("group") for row in rows]
    return MetricValues(
        values=[row[metric]["value"] for row in rows],
        weights=weights if len(set(weights)) > 1 else None,
        groups=groups if any(group is not None for group in groups) else None,
    )


def _groups_of(records: Sequence[Record]) -> list[str | None] | None:
    groups = [record.group for record in records]
    return groups if any(group is not None for group in groups) else None


def _pair_with_metrics(
    measurements: Sequence[Measurement], evaluator: Component[EvaluatorOffer[Any]]
) -> list[tuple[Measurement, Any]]:
    metrics = {metric.name: metric for metric in evaluator.offer.metrics}
    return [(m, metrics[m.metric]) for m in measurements]


def _check_measurements(
    measurements: Sequence[object],
    evaluator: Component[EvaluatorOffer[Any]],
    records: Sequence[Record],
) -> list[Measurement]:
    """Check the evaluator's contract: declared metrics, each once, and one value per record.

    Returns:
        The measurements, with numbers of any library as floats.

    Raises:
        PluginError: naming the plugin and the metric.
    """
    declared = {metric.name for metric in evaluator.offer.metrics}
    plugin = f'plugin "{evaluator.offered.plugin.full_name}"'
    checked: dict[str, Measurement] = {}
    for measurement in measurements:
        if not isinstance(measurement, Measurement):
            raise PluginError(
                f"{plugin} returned {type(measurement).__name__} in place of a Measurement"
            )
        metric = measurement.metric
        if metric not in declared:
            raise PluginError(
                f'{plugin} returned metric "{metric}", which its offer does not declare'
            )
        if metric in checked:
            raise PluginError(f'{plugin} returned metric "{metric}" twice')
        values = _check_column(plugin, metric, "values", measurement.values, records)
        weights = measurement.weights
        if weights is not None:
            weights = _check_column(plugin, metric, "weights", weights, records)
            if records and not (all(0 <= w < math.inf for w in weights) and any(weights)):
                raise PluginError(
                    f'{plugin} returned weights of "{metric}" that are negative, not finite or '
                    "all zero"
                )
        if measurement.outputs is not None:
            _check_column(plugin, metric, "outputs", measurement.outputs, records, str)
        checked[metric] = replace(measurement, values=values, weights=weights)
    return list(checked.values())


def _check_column(
    plugin: str,
    metric: str,
    name: str,
    column: Any,
    records: Sequence[Record],
    kind: type = numbers.Real,
) -> tuple[Any, ...]:
    """Return the numbers or texts of a measurement, one per record.

    Raises:
        PluginError: the column has another type or length, or a value has another type.
    """
    if isinstance(column, str) or not isinstance(column, Iterable):
        raise PluginError(f'{plugin} returned {column!r} as {name} of "{metric}"'[:300])
    items = tuple(column)
    if len(items) != len(records):
        raise PluginError(
            f'{plugin} returned {len(items)} {name} of "{metric}" for {len(records)} records'
        )
    for item, record in zip(items, records, strict=True):
        if not isinstance(item, kind):
            expected = "a text" if kind is str else "a number"
            raise PluginError(
                f'{plugin} returned {type(item).__name__} in {name} of "{metric}" for '
                f"{record.source}; each must be {expected}"
            )
    return items if kind is str else tuple(map(float, items))


def _check_finite(
    label: str,
    measurements: Sequence[Measurement],
    records: Sequence[Record],
    models: Sequence[CheckedModel],
    plugin: Plugin,
) -> None:
    """Check that every value is finite, because one NaN would make the mean meaningless.

    Raises:
        TrainingError: naming the record; the model's own scores are not finite.
        PluginError: naming the record and the plugin; only the evaluator's values are not finite.
    """
    for measurement in measurements:
        for value, record in zip(measurement.values, records, strict=True):
            if math.isfinite(value):
                continue
            text = f"{label} model: {measurement.metric} of {record.source} is {value}, not finite"
            if any(model.not_finite for model in models):
                raise TrainingError(
                    text,
                    hint="the model's probabilities are NaN or infinite: train with a lower "
                    'learning rate, or set technique.precision = "fp32"',
                )
            raise PluginError(
                f'plugin "{plugin.full_name}" {plugin.version}: {text}',
                hint="the model's own scores are finite: this is a fault of the evaluator",
            )


def _to_json_lines(measurements: Sequence[Measurement], records: Sequence[Record]) -> str:
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
