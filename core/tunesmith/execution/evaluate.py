"""Evaluate a text model with one evaluator of the run, and store the value of every record.

Evaluators return one value per record. The core computes means and intervals and writes the files
with the values per record, so the metrics of all plugins are treated alike.
"""

from __future__ import annotations

import json
import math
import numbers
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from tunesmith.contracts import Measurement, Progress, RunContext, TextModel
from tunesmith.errors import IntegrityError, PluginError, PromptTooLongError, TrainingError
from tunesmith.events import JSON, TUNED, FindingReported, Measured
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.measure_part import measure_part
from tunesmith.execution.previews import PREVIEWS_FILE, write_previews
from tunesmith.execution.report import TRAINING_ROWS
from tunesmith.execution.wrapped_model import CheckedModel, WrappedModel
from tunesmith.fence import attribute_errors_to, check_unchanged, isolate, require_unchanged
from tunesmith.fence.returned import blame_plugin, check_measured
from tunesmith.offers import Plugin
from tunesmith.records import Message, Prompt, Record, exchanges, last_exchange
from tunesmith.statistics import mean_interval
from tunesmith.storage import write_atomic

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer
    from tunesmith.plan import Component

EVALUATIONS_FOLDER = "evaluations"
_COLUMNS: dict[str, type] = {"outputs": str, "counts": Sequence, "exchanges": Sequence}
"""Optional fields of a measurement that have one item per record, with the type of an item."""


@dataclass(frozen=True)
class ProgressTextModel(WrappedModel):
    """A text model that reports progress to the run, unless the caller passes its own callback.

    Evaluators therefore do not need to report it.
    """

    report_progress: Progress
    record_count: int
    """Number of records to evaluate. An evaluator may request several texts for each of them."""

    def _progress(self, progress: Progress | None, count: int) -> Progress:
        """Return a callback that converts counts of finished texts to counts of records."""
        return progress or (
            lambda done: self.report_progress(done * self.record_count // max(count, 1))
        )


def measure_model(  # noqa: PLR0913 - a model, an evaluator, records, and where progress goes
    label: str,
    model: TextModel,
    evaluator: Component[EvaluatorOffer[Any]],
    records: Sequence[Record],
    emit: Emitter,
    run: RunContext,
    technique: Plugin,
    cut: set[Prompt] | None = None,
) -> list[Measurement]:
    """Run one evaluator on one model and return its checked measurements, with values as floats.

    Args:
        technique: the plugin that opens the models; errors of a model are attributed to it.
        cut: collects the prompts whose answers were cut off at the token limit.

    Returns:
        The measurements; none if the evaluator needs another model that does not exist yet.

    Raises:
        PluginError: the evaluator returned undeclared metrics, too few values or values of another
            type, or changed a record; or a plugin raised an exception.
        TrainingError: the model's scores are not finite.
    """
    plugin, hashes = evaluator.offered.plugin, [*map(hash, records)]
    not_finite: list[float] = []

    def open_model(artifact: Path | None) -> TextModel:
        with attribute_errors_to(technique):
            return CheckedModel(run.open(artifact), technique, not_finite)

    with (
        emit.phase(label, len(records)) as report_progress,
        attribute_errors_to(plugin),
        isolate(
            plugin, "measure", guards_state=True, may_take_long=True, keep_new_variables=False
        ) as changes,
        require_unchanged(plugin, *([] if plugin.is_builtin else [run.train, run.validation])),
    ):
        built = evaluator.offer.build(evaluator.config)
        checked = CheckedModel(model, technique, not_finite, set() if cut is None else cut)
        tracked = ProgressTextModel(checked, report_progress, len(records))
        context = replace(run, open=open_model)
        with _name_long_rows(label, records):
            returned = measure_part(evaluator.offer, built, tracked, records, context)
    if changes:
        text = f"evaluator {evaluator.id} changed {', '.join(changes)}; the change was undone"
        emit(FindingReported(level="warning", source=plugin.full_name, message=text))
    check_unchanged(hashes, records, plugin)
    try:
        measured = list(_check_measurements(returned, evaluator.offer, records))
    except (ValueError, OverflowError) as error:
        raise PluginError(f'plugin "{plugin.full_name}" returned {error}') from None
    _check_finite(label, measured, records, not_finite, plugin)
    metrics = {metric.name: metric for metric in evaluator.offer.metrics}
    for measurement in measured:
        with blame_plugin(plugin, "measure"):
            check_measured(measurement, metrics[measurement.metric])
    return measured


@contextmanager
def _name_long_rows(label: str, records: Sequence[Record]) -> Iterator[None]:
    """Add to an error about prompts that are too long the file and line of the rows.

    Raises:
        PromptTooLongError: with the file and line of the first such row.
    """
    try:
        yield
    except PromptTooLongError as error:
        long = set(error.prompts)
        rows = [r.source for r in records if long.intersection(p for p, _ in exchanges(r))]
        where = f"{rows[0]}: " if rows else ""
        raise PromptTooLongError(
            f"{label}: {where}{error.message}", error.prompts, hint=error.hint
        ) from error


def exclude_prompts(records: Sequence[Record], prompts: Sequence[Prompt]) -> Iterator[Record]:
    """Yield the records that do not contain any of these prompts."""
    unwanted = set(prompts)
    for record in records:
        if unwanted.isdisjoint(prompt for prompt, _ in exchanges(record)):
            yield record


def evaluate_model(  # noqa: PLR0913 - a model, an evaluator, records, and where results go
    label: str,
    model: TextModel,
    evaluator: Component[EvaluatorOffer[Any]],
    records: Sequence[Record],
    emit: Emitter,
    run: RunContext,
    folder: Path,
    technique: Plugin,
    rows: Sequence[int] | None = None,
) -> list[Measured]:
    """Measure a model with :func:`measure_model`, store all values, and emit and return the means.

    If the evaluator cannot measure yet, nothing is stored, and the result is empty. ``rows`` are
    the numbers of the records among the test records; None: their positions in ``records``.
    """
    started = time.perf_counter()
    phase = f"{label}: {evaluator.id}"
    cut = set[Prompt]()
    measured = measure_model(phase, model, evaluator, records, emit, run, technique, cut)
    if not measured:
        return []
    path = f"{EVALUATIONS_FOLDER}/{label}.{evaluator.id}.jsonl"
    (folder / EVALUATIONS_FOLDER).mkdir(exist_ok=True)
    own = measured[0].records
    records, rows = (records, rows) if own is None else (own, None)
    row_numbers = rows or range(len(records))
    answered = measured[0].exchanges or [last_exchange(record) for record in records]
    write_atomic(folder / path, _to_json_lines(measured, records, answered, row_numbers, cut))
    if label == TUNED and not (folder / PREVIEWS_FILE).exists():
        write_previews(folder, [prompt for prompt, _ in answered])
    findings = [] if label == TRAINING_ROWS else emit.report.findings
    duplicates = {row for finding in findings for row in finding.test_rows}
    others = [index for index, row in enumerate(row_numbers) if row not in duplicates]
    events = []
    for measurement in measured:
        metric = next(m for m in evaluator.offer.metrics if m.name == measurement.metric)
        bounds = metric.limits
        lowest, highest = (x if math.isfinite(x) else None for x in bounds or (math.inf, math.inf))
        event = Measured(
            model=label,
            evaluator=evaluator.id,
            metric=metric.name,
            **_mean(measurement, records, range(len(records)), bounds),
            higher_is_better=metric.higher_is_better,
            seconds=time.perf_counter() - started,
            records=path,
            unit=metric.unit,
            # A metric over all rows has no meaningful mean over some of its rows' contributions.
            leakage_free=_mean(measurement, records, others, bounds)
            if duplicates and metric.is_row_mean and own is None
            else {},
            details=dict(measurement.details),
            lowest=lowest,
            highest=highest,
            version=evaluator.offered.plugin.version,
            cut=sum(prompt in cut for prompt, _ in answered),
        )
        emit(event)
        events.append(event)
    return events


def read_rows(path: Path, *metrics: str) -> list[JSON]:
    """Read the rows that :func:`evaluate_model` wrote, with value and weight of these metrics.

    Raises:
        IntegrityError: the file is missing or damaged.
    """
    rows: list[JSON] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line) if "\\ud" in line else from_json(line)  # from_json rejects them
            for metric in metrics:
                column = row[metric]
                math.fsum((column["value"], column["weight"]))  # fails unless both are numbers
            rows.append(row)
    except (OSError, ValueError, LookupError, TypeError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise IntegrityError(
            f"{path}:{len(rows) + 1}: the file of evaluation results {what}",
            hint="restore the file, or remove it and run `tunesmith resume`, which repeats the "
            "evaluation",
        ) from None
    return rows


def _mean(
    measured: Measurement, records: Sequence[Record], rows: Sequence[int], bounds: Any
) -> JSON:
    """Return the mean over some rows and its interval; {} without rows or if all weights are 0."""
    weights = None if measured.weights is None else [measured.weights[row] for row in rows]
    if not (rows if weights is None else any(weights)):
        return {}
    values, groups = [measured.values[row] for row in rows], [records[row].group for row in rows]
    mean = mean_interval(values, weights, groups=groups, bounds=bounds)
    if measured.interval is not None and len(rows) == len(measured.values):
        mean = replace(mean, low=measured.interval[0], high=measured.interval[1])
    return asdict(mean)


def _check_measurements(
    returned: Iterable[object], offer: EvaluatorOffer[Any], records: Sequence[Record]
) -> Iterator[Measurement]:
    """Yield the measurements, with all numbers converted to floats.

    Raises:
        ValueError: the evaluator did not return its declared metrics, each once and with one value
            per record. The message describes what it returned.
    """
    declared = {metric.name for metric in offer.metrics}
    seen: dict[str, Sequence[Record]] = {}
    for measurement in returned:
        if not isinstance(measurement, Measurement):
            kind_found = type(measurement).__name__
            raise ValueError(f"a value of type {kind_found} instead of a Measurement")
        name = f'"{measurement.metric}"'
        if measurement.metric not in declared:
            raise ValueError(f"the metric {name}, which its offer does not declare")
        if measurement.metric in seen:
            raise ValueError(f"the metric {name} twice")
        own = records if measurement.records is None else measurement.records
        seen[measurement.metric] = own
        if any(own is not other for other in seen.values()) or not (own or own is records):
            raise ValueError(f"{name} for no records, or not for the records of its first metric")
        values = _check_column(f"values of {name}", measurement.values, own)
        weights = measurement.weights
        if weights is not None:
            weights = _check_column(f"weights of {name}", weights, own)
            if own and not (all(0 <= w < math.inf for w in weights) and any(weights)):
                raise ValueError(f"weights of {name} that are negative, not finite or all zero")
        others: dict[str, Any] = {}
        for what, kind in _COLUMNS.items():
            column = getattr(measurement, what)
            others[what] = column and _check_column(f"{what} of {name}", column, own, kind=kind)
        low, high = measurement.interval or (0, 0)
        if not -math.inf < low <= high < math.inf:
            what = f"the interval from {low} to {high} for {name}, which is reversed or not finite,"
            raise ValueError(what)
        yield replace(measurement, values=values, weights=weights, **others)


def _check_column(
    name: str, column: Any, records: Sequence[Record], *, kind: type = numbers.Real
) -> tuple[Any, ...]:
    """Return one column of a measurement, with numbers as floats, after checking its items.

    Raises:
        ValueError: the column has another type or length, or a value has another type.
    """
    if isinstance(column, str) or not isinstance(column, Iterable):
        raise ValueError(f"{column!r} as {name}"[:300])
    items = tuple(column)
    if len(items) != len(records):
        raise ValueError(f"{len(items)} {name} for {len(records)} records")
    for item, record in zip(items, records, strict=True):
        if not isinstance(item, kind):
            expected = "a text" if kind is str else "a list" if kind is Sequence else "a number"
            found = f"a value of type {type(item).__name__} in {name} for {record.source}"
            raise ValueError(f"{found}; each must be {expected}")
    return tuple(map(float, items)) if kind is numbers.Real else items


def _check_finite(
    label: str,
    measured: Sequence[Measurement],
    records: Sequence[Record],
    not_finite: Sequence[float],
    plugin: Plugin,
) -> None:
    """Check that every value is finite, because one NaN would make the mean meaningless.

    Raises:
        TrainingError: the model's own scores are not finite; names the record.
        PluginError: only the evaluator's values are not finite; names the record and the plugin.
    """
    found = (
        f"{label}: {m.metric} of {record.source} is {value}, not finite"
        for m in measured
        for value, record in zip(m.values, m.records or records, strict=True)
        if not math.isfinite(value)
    )
    text = next(found, None)
    if text is not None and not_finite:
        raise TrainingError(
            text,
            hint="the model returns NaN or infinite scores: train with a lower learning rate, or "
            'set technique.precision = "fp32"',
        )
    if text is not None:
        raise PluginError(
            f'plugin "{plugin.full_name}" {plugin.version}: {text}',
            hint="the model's own scores are finite, so the evaluator has a bug",
        )


def _to_json_lines(
    measurements: Sequence[Measurement],
    records: Sequence[Record],
    answered: Sequence[tuple[Prompt, Message]],
    rows: Sequence[int],
    cut: Set[Prompt],
) -> str:
    lines = []
    for index, (record, (prompt, answer)) in enumerate(zip(records, answered, strict=True)):
        line: dict[str, Any] = {"row": rows[index], "source": record.source}
        turns = [(m.role, m.described) for m in prompt] if isinstance(prompt, tuple) else prompt
        line |= {"prompt": turns, "expected": answer.described}
        if record.group is not None:
            line["group"] = record.group
        if prompt in cut:
            line["cut"] = True
        if record.slices:
            line["slices"] = dict(record.slices)
        for m in measurements:
            weight = m.weights[index] if m.weights is not None else 1.0
            line[m.metric] = {"value": m.values[index], "weight": weight}
            if m.counts is not None:
                line[m.metric]["counts"] = _pack(m.counts[index])
            if m.outputs is not None:
                line["output"] = m.outputs[index]
        lines.append(json.dumps(line, ensure_ascii=True) + "\n")
    return "".join(lines)


def _pack(counts: Sequence[float]) -> dict[int, float]:
    """Return a record's counts by column, without zeros, except the last column."""
    last = len(counts) - 1
    return {column: float(c) for column, c in enumerate(counts) if c or column == last}
