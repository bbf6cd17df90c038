"""Measure a model on your own rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tunesmith import plugins
from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.config.problems import convert_problems
from tunesmith.contracts import Measurement, TextModel
from tunesmith.data.units import RecordsByUnit
from tunesmith.errors import ConfigError, UsageError
from tunesmith.execution.measure_part import prepare
from tunesmith.fence import attribute_errors_to
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import from_table
from tunesmith.records import Record
from tunesmith.statistics import Interval, mean_interval


def evaluate(
    model: TextModel,
    records: Sequence[Record],
    evaluator: str = "exact-match",
    *,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Interval]:
    """Measure a model with an installed evaluator.

    Args:
        model: any text model, such as ``run.model()``.
        records: at least one row, such as ``Completion(source="mine:1", prompt="Hello?",
            completion="Hi.")`` of :mod:`tunesmith.records`.
        evaluator: the name of an evaluator, as in ``[[evaluators]] use``.
        options: the options in its table.

    Returns:
        For each metric: the mean, its 95 % interval, and the numbers of rows and of independent
        units. Rows with nearly the same prompt, or of the same group, count as one unit.

    Raises:
        UsageError: the evaluator does not exist, or ``records`` is empty.
        ConfigError: the options are wrong.
        PluginError: the evaluator raised an exception.
    """
    from tunesmith_data.splits import cluster_records  # not at the top, because it imports numpy

    catalog = Catalog(plugins.find_plugins(plugins.Selection.from_environment()))
    try:
        offered = catalog.find(EvaluatorOffer, evaluator)
    except OfferNotFoundError as error:
        raise UsageError(error.what, hint=error.hint) from None
    if not records:
        raise UsageError(
            "records: the list is empty, so there is nothing to measure",
            hint="pass at least one record",
        )
    try:
        config = from_table(offered.offer.config, options or {})
    except ValidationError as error:
        problems = convert_problems(error, f"evaluator {evaluator}", offered.offer.config)
        raise ConfigError([*problems]) from None
    metrics = {metric.name: metric for metric in offered.offer.metrics}
    with attribute_errors_to(offered.plugin):
        measured = [*prepare(offered.offer.build(config), records).measure(model, records)]
    units = RecordsByUnit(records, cluster_records).units
    return {m.metric: _average(m, metrics[m.metric], units) for m in measured}


def _average(measurement: Measurement, metric: Metric, units: Sequence[str | None]) -> Interval:
    own = measurement.records
    groups = units if own is None else [record.group for record in own]
    return mean_interval(
        measurement.values, measurement.weights, groups=groups, bounds=metric.limits
    )
