"""The bill of materials of a run in CycloneDX, with the results as a model card.

https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tunesmith.errors import UsageError
from tunesmith.events import Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.statistics import mean_interval
from tunesmith_evidence.report.facts import name_base_model
from tunesmith_evidence.report.view import ReportView

JSON = dict[str, Any]
MODEL, BASE_MODEL, DATA = "model", "base-model", "data"
MIN_SLICE = 5
"""Fewest rows of a slice with an own score."""
LIMITS = (
    "The results hold for rows similar to the test rows.",
    "Nothing here shows that answers are safe.",
)


def make_bom(view: ReportView, license: str | None) -> JSON:
    """Return the bill of materials of a finished run; equal runs give equal bills.

    Raises:
        UsageError: the run has no trained model.
    """
    report = view.report
    started, trained = report.started, report.training_finished.get("")
    if started is None or trained is None:
        raise UsageError(f"{view.folder}: no trained model found", hint="finish the run first")
    finished = report.finished.finished if report.finished else started.started
    libraries = [*_list_libraries(started.versions)]
    model: JSON = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": report.name,
        "modelCard": _make_model_card(view),
        "components": [*_list_files(view.folder / trained.artifact)],
        "properties": _properties(verdict=report.verdict.get("word"), status=report.status),
    }
    base: JSON = {
        "type": "machine-learning-model",
        "bom-ref": BASE_MODEL,
        "name": name_base_model(report) or "unknown",
        **({"licenses": [{"license": {"name": license}}]} if license else {}),
        "properties": _properties(**(report.model.files if report.model else {})),
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'{started.run} {started.started}')}",
        "version": 1,
        "metadata": {
            "timestamp": finished,
            "component": model,
            "tools": {"components": [c for c in libraries if c["name"] == "tunesmith"]},
        },
        "components": [base, _describe_data(view), *libraries],
        "dependencies": [
            {"ref": MODEL, "dependsOn": [BASE_MODEL, DATA, *(c["bom-ref"] for c in libraries)]}
        ],
    }


def validate(text: str) -> None:
    """Check a bill of materials against the schema of CycloneDX.

    Raises:
        UsageError: it does not follow the schema.
    """
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise UsageError(f"the bill of materials does not follow CycloneDX 1.6: {error}"[:500])


def _make_model_card(view: ReportView) -> JSON:
    stage = next(iter(view.report.training_started.values()), None)
    return {
        "modelParameters": {
            "task": "text-generation",
            "datasets": [{"ref": DATA}],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                item for event in view.report.tuned for item in _list_metrics(event, view)
            ]
        },
        "considerations": {"technicalLimitations": list(LIMITS)},
        "properties": _properties(technique=stage.technique if stage else None),
    }


def _list_metrics(event: Measured, view: ReportView) -> Iterator[JSON]:
    """Yield a metric of the tuned model on all test rows, and on each slice of them."""
    report = view.report
    label = report.metric_label(event.evaluator, event.metric)
    rows_name = f"rows of {event.evaluator}" if event.evaluator in view.apart else "test rows"
    if math.isfinite(event.value):
        whole = f"all {event.n} {rows_name}"
        yield _make_metric(label, whole, event.value, event.low, event.high)
    groups: dict[tuple[str, str], list[JSON]] = defaultdict(list)
    for row in read_rows(view.folder / event.records, event.metric):
        for item in row.get("slices", {}).items():
            groups[item].append(row)
    for (name, value), rows in groups.items():
        if len(rows) < MIN_SLICE or any("counts" in row[event.metric] for row in rows):
            continue
        values, weights = ([row[event.metric][k] for row in rows] for k in ("value", "weight"))
        units = [row.get("group") for row in rows]
        if any(weights):
            mean = mean_interval(values, weights, groups=units, bounds=event.bounds)
            where = f"{name}={value}, {len(rows)} {rows_name}"
            yield _make_metric(label, where, mean.value, mean.low, mean.high)


def _make_metric(label: str, part: str, value: float, low: float, high: float) -> JSON:
    ends = {"lowerBound": low, "upperBound": high}
    known = {name: str(end) for name, end in ends.items() if math.isfinite(end)}
    return {"type": label, "value": str(value), "slice": part, "confidenceInterval": known}


def _describe_data(view: ReportView) -> JSON:
    data = view.report.data
    sizes = {"train": data.train, "validation": data.validation, "test": data.test} if data else {}
    hashes = [{"alg": "SHA-256", "content": data.fingerprint}] if data and data.fingerprint else []
    return {
        "type": "data",
        "bom-ref": DATA,
        "name": "training, validation and test rows",
        **({"hashes": hashes} if hashes else {}),
        "data": [{"type": "dataset", "name": name} for name, size in sizes.items() if size],
        "properties": _properties(**{f"rows.{name}": size for name, size in sizes.items()}),
    }


def _list_files(folder: Path) -> Iterator[JSON]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield {
                "type": "file",
                "name": path.relative_to(folder).as_posix(),
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }


def _list_libraries(versions: Mapping[str, str]) -> Iterator[JSON]:
    for name, version in sorted(versions.items()):
        if name == "python":
            continue
        reference = f"pkg:pypi/{name.lower().replace('_', '-')}@{version.partition('+')[0]}"
        found = {"type": "library", "bom-ref": reference, "name": name, "version": version}
        yield {**found, "purl": reference}


def _properties(**values: object) -> list[JSON]:
    """Return the known values as properties, in the name space of tunesmith."""
    return [
        {"name": f"tunesmith:{name}", "value": str(value)}
        for name, value in values.items()
        if value is not None
    ]
