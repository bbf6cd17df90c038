"""Check the return values of plugins immediately, so that an error names the plugin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from tunesmith.command_offers import CommandOffer, Offer, Plugin
from tunesmith.errors import PluginError

if TYPE_CHECKING:
    from pathlib import Path

    from tunesmith.contracts import Artifact, Dataset, FoundModel, Measurement, ReviewResult, Split
    from tunesmith.offers import Metric

MAX_JSON_CHARACTERS = 1_000_000
"""Maximum characters of a verdict, or of the details of a measurement, as JSON."""
MAX_TEXT_CHARACTERS = 100_000
"""Maximum characters of a text for the user."""
MAX_ABSOLUTE_VALUE = 1e150
"""Largest magnitude of a value: an interval needs its square, which must not overflow."""


@contextmanager
def blame_plugin(plugin: Plugin, what: str) -> Iterator[None]:
    """Turn a ValueError raised in the block into an error that names the plugin and its function.

    Raises:
        PluginError: with the text of the ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise PluginError(f'plugin "{plugin.full_name}" returned {error} from {what}') from None


def check_json(value: object, name: str) -> None:
    """Check that a value is JSON of a moderate size; raise ValueError otherwise."""
    import json

    try:
        size = len(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} that is not JSON ({' '.join(str(error).split())})") from None
    if size > MAX_JSON_CHARACTERS:
        raise ValueError(
            f"{name} of {size:,} characters (at most {MAX_JSON_CHARACTERS:,} are allowed)"
        )


def check_measured(measured: Measurement, metric: Metric) -> None:
    """Check a measurement: its values must be within the metric's bounds, its details JSON.

    Raises:
        ValueError: a value is out of bounds or too large, or the details are not JSON.
    """
    check_json(measured.details, f'details of "{metric.name}"')
    # For a metric over all rows, a row's contribution is not a value of that metric.
    low, high = (metric.is_row_mean and metric.bounds) or (-MAX_ABSOLUTE_VALUE, MAX_ABSOLUTE_VALUE)
    slack = 1e-6 * max([1.0, *(abs(bound) for bound in (low, high) if math.isfinite(bound))])
    for value in measured.values:
        if not low - slack <= value <= high + slack:
            known = f"outside the bounds {low:g} to {high:g}"
            raise ValueError(f'a value of {value:g} for "{metric.name}", which is {known},')


def check_found_model(found: FoundModel) -> None:
    """Check the fields of a base model that a plugin found; raise ValueError if one is wrong."""
    for field in ("reference", "description", "hub_id", "missing"):
        _check_text(vars(found)[field], f"{field} of a FoundModel")
    if found.revision is not None:
        _check_text(found.revision, "revision of a FoundModel")
    for field in ("fetch", "tokenizer", "find_obstacle"):
        if not callable(vars(found)[field]):
            raise ValueError(f"a FoundModel whose {field} is not a function")
    check_json(found.config, "config of a FoundModel")


def check_fetched_folder(path: object) -> Path:
    """Return the folder that a plugin fetched; raise ValueError if it is not a folder."""
    from pathlib import Path

    if not isinstance(path, Path) or not path.is_dir():
        raise ValueError(f"{path!r:.200}, which is not a folder,")
    return path


def check_obstacle(text: object) -> str:
    """Return a plugin's reason why a fetch would fail; raise ValueError if it is not text."""
    _check_text(text, "an obstacle of a FoundModel")
    return str(text)


def check_split(split: object, records: int) -> Split:
    """Return the result of a splitter; raise ValueError if a record is missing or duplicated."""
    from tunesmith.contracts import Split

    if not isinstance(split, Split):
        raise ValueError(f"a value of type {type(split).__name__} instead of a Split")
    counts = bytearray(records)
    for row in chain(split.train, split.validation, split.test):
        if not isinstance(row, int) or not 0 <= row < records:
            raise ValueError(f"the row number {row!r:.40}, although there are {records} rows,")
        counts[row] = min(counts[row] + 1, 2)
    if counts.count(1) != records:
        raise ValueError("splits that do not contain each record exactly once")
    for finding in split.findings:
        check_finding(finding)
    return split


def check_variants(variants: Sequence[object]) -> None:
    """Check the variants of a baseline; raise ValueError for a wrong type or a duplicate name.

    The chosen variant is found again by its name, for example when the run is resumed.
    """
    from tunesmith.contracts import BaselineVariant

    names: set[str] = set()
    for variant in variants:
        if not isinstance(variant, BaselineVariant):
            kind = type(variant).__name__
            raise ValueError(f"a value of type {kind} instead of a BaselineVariant")
        _check_text(variant.name, "the name of a variant")
        if variant.name in names:
            raise ValueError(f'two variants named "{variant.name}"')
        names.add(variant.name)


def check_technique_artifact(artifact: object) -> Artifact:
    """Return the result of a technique; raise ValueError if it is not a folder with an artifact."""
    from pathlib import Path

    from tunesmith.contracts import Artifact

    if not isinstance(artifact, Artifact):
        raise ValueError(f"a value of type {type(artifact).__name__} instead of an Artifact")
    if not isinstance(artifact.path, Path) or not artifact.path.is_dir():
        raise ValueError(f"an Artifact at {artifact.path!r:.200}, which is not a folder,")
    return artifact


def check_review(result: ReviewResult) -> None:
    """Check the findings and the forecast of a review; raise ValueError if one is wrong."""
    from tunesmith.events import Forecast

    for finding in result.findings:
        check_finding(finding)
    if not isinstance(result.forecast, Forecast | None):
        kind = type(result.forecast).__name__
        raise ValueError(f"a value of type {kind} instead of a Forecast")
    if result.forecast is not None:
        check_json(result.forecast.to_json(), "a forecast")


def check_finding(finding: object) -> None:
    """Check the fields of a finding; raise ValueError if one is wrong."""
    from tunesmith.contracts import Finding

    if not isinstance(finding, Finding):
        raise ValueError(f"a value of type {type(finding).__name__} instead of a Finding")
    if finding.level not in ("info", "warning", "error"):
        raise ValueError(f"a finding with the unknown level {finding.level!r:.40}")
    for field in ("where", "message", "hint"):
        _check_text(vars(finding)[field], f"{field} of a finding")
    if not all(isinstance(text, str) for text in finding.examples):
        raise ValueError("a finding whose examples are not texts")
    numbers = [finding.count, *finding.test_rows]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a finding whose row numbers are not whole numbers")


def check_dataset(dataset: object) -> Dataset:
    """Return the dataset that a data loader loaded; raise ValueError if it is not a Dataset."""
    from tunesmith.contracts import Dataset, SkippedRow

    if not isinstance(dataset, Dataset):
        raise ValueError(f"a value of type {type(dataset).__name__} instead of a Dataset")
    _check_text(dataset.description, "a description")
    for text in _check_sequence(dataset.warnings, "warnings"):
        _check_text(text, "a warning")
    for row in _check_sequence(dataset.skipped, "skipped rows"):
        if not isinstance(row, SkippedRow):
            raise ValueError(f"a value of type {type(row).__name__} instead of a SkippedRow")
        for text in (row.where, row.cause, row.detail, row.row):
            _check_text(text, "a text of a SkippedRow", limit=2**63)
    return dataset


def check_offer(offer: Offer) -> None:
    """Check the fields of an offer; raise ValueError if one is wrong."""
    _check_text(offer.name, "a name")
    _check_text(offer.summary, f'the summary of "{offer.name}"')
    for text in _check_sequence(offer.needs, f'the needs of "{offer.name}"'):
        _check_text(text, f'a requirement of "{offer.name}"')
    if isinstance(offer, CommandOffer):
        return
    from tunesmith.offers import ComponentOffer, ConfiguredOffer, EvaluatorOffer

    if isinstance(offer, ConfiguredOffer):
        from pydantic import BaseModel

        if not (isinstance(offer.config, type) and issubclass(offer.config, BaseModel)):
            raise ValueError(f'an offer "{offer.name}" whose options are not a pydantic model')
    if isinstance(offer, ComponentOffer) and not callable(offer.build):
        raise ValueError(f'an offer "{offer.name}" whose build is not a function')
    if isinstance(offer, EvaluatorOffer):
        names = [_check_metric(metric, offer.name).name for metric in offer.metrics]
        if not names or len({*names}) < len(names):
            raise ValueError(f'an offer "{offer.name}" with no metrics or duplicate metric names')


def _check_metric(metric: object, offer: str) -> Metric:
    from tunesmith.offers import Metric

    if not isinstance(metric, Metric):
        kind = type(metric).__name__
        raise ValueError(f'an offer "{offer}" with a value of type {kind} instead of a Metric')
    if metric.bounds is not None:
        low, high = metric.bounds
        if not low < high:
            raise ValueError(
                f'a metric "{metric.name}" with bounds [{low}, {high}], in the wrong order'
            )
    return metric


def _check_text(value: object, name: str, limit: int = MAX_TEXT_CHARACTERS) -> None:
    if not isinstance(value, str):
        raise ValueError(f"a value of type {type(value).__name__} as {name}")
    if len(value) > limit:
        raise ValueError(f"{name} of {len(value):,} characters (at most {limit:,} are allowed)")


def _check_sequence(value: object, name: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"a value of type {type(value).__name__} as {name}")
    return value
