"""Export a trained model: merge it, write it, verify it in its engine, and certify it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithError, UsageError
from tunesmith.offers import ExporterOffer
from tunesmith.options import Options
from tunesmith.records import Record
from tunesmith.storage import commit_folder, verify_folder
from tunesmith.storage.manifest import MANIFEST
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_estimate, format_number
from tunesmith_evidence.statistics import paired_difference
from tunesmith_torch.data.templates import Template
from tunesmith_torch.export.checks import (
    ExportChecks,
    check_engine,
    check_files,
    check_merge,
    require,
)
from tunesmith_torch.export.contract import AdapterExporter, Exporter, ServedExporter
from tunesmith_torch.export.engine_model import EngineModel
from tunesmith_torch.export.merge_by_tensor import write_merged
from tunesmith_torch.export.reference import Reference, score_rows
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models.artifacts import (
    ADAPTER_WEIGHTS_FILE,
    attach_adapter,
    detect_artifact_format,
)
from tunesmith_torch.models.legacy_config_keys import write_legacy_config_keys
from tunesmith_torch.models.loading import load_base, load_tokenizer
from tunesmith_torch.models.merging import MergeOptions, load_training_base, refuse_other_folder
from tunesmith_torch.models.tensor_changes import describe_lost, list_lost_changes
from tunesmith_torch.runtime.malloc import release_memory

__all__ = [
    "AnnounceFunction",
    "Export",
    "MeasureFunction",
    "MergeFunction",
    "TrainedModel",
    "export_run",
]

CERTIFICATE_FILE = "export.json"
SCHEMA = "tunesmith.export/1"
EXPORT = "export"
"""Name of the export format in a folder's manifest."""
_NOT_COPIED = frozenset({ADAPTER_WEIGHTS_FILE, "adapter_config.json", "README.md", MANIFEST})
_SENTENCEPIECE = ("tokenizer.model", "spiece.model")
"""Tokenizer files of a base model that converters read; transformers does not save them."""

OptionsT = TypeVar("OptionsT", bound=Options)
MergeFunction = Callable[[Path, Path, Path, MergeOptions, torch.dtype], None]
MeasureFunction = Callable[[TextModel], Sequence[Measurement]]
AnnounceFunction = Callable[[str], None]
"""A function that receives a short description of each step when the step starts."""


def _announce_nothing(step: str) -> None:
    """Ignore the description of a step (the default)."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The artifact and base model of a run, and test rows to compare the export on."""

    base: Path
    artifact: Path
    merge: MergeOptions
    test: Sequence[Record]
    measure: MeasureFunction | None = None
    """Measures a text model with the run's own metric; None if the run has no metric."""
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exporter, with its options and its name in the certificate."""

    name: str
    options: dict[str, Any]
    exporter: Exporter | AdapterExporter
    tolerance: float | None
    """Maximum difference of a log-probability, in nats; None if weights are rounded."""

    @classmethod
    def from_offer(cls, offer: ExporterOffer[OptionsT], options: OptionsT) -> Export:
        """Build the exporter of an offer with these options."""
        return cls(
            name=offer.name,
            options=options.model_dump(mode="json", exclude_none=True),
            exporter=offer.build(options),
            tolerance=offer.tolerance(options),
        )


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """A trained model in the form that exporters read, with the reference for its exports."""

    trained: TrainedModel
    template: Template
    folder: Path
    """The model folder that exporters read."""
    reference: Reference
    expected: Sequence[Measurement] | None
    """The trained model's values of the run's metric; None if they were not measured."""
    merge_checks: dict[str, str]
    """The result of the merge check; empty if nothing was merged."""


def export_run(
    trained: TrainedModel,
    export: Export,
    out: Path,
    merge: MergeFunction = write_merged,
    *,
    results: str = "",
    announce: AnnounceFunction = _announce_nothing,
) -> dict[str, Any]:
    """Write the model to ``out`` unless a check fails; return the certificate.

    ``results`` are sections of the model card about the run, as Markdown. ``merge`` writes the
    config and weights of a merged model; it is not called for exporters that write unmerged
    adapters. ``announce`` is called at the start of each step.

    Raises:
        GateError: a check failed; the message names it.
        IntegrityError: the artifact's files have changed.
        UsageError: ``out`` must not be replaced, or the exporter writes adapters, but the run has
            none that its engine can serve.
    """
    refuse_other_folder(out, EXPORT, trained.artifact)
    alone = isinstance(export.exporter, AdapterExporter)
    if alone:
        check_adapter_alone(trained, export)
    with TemporaryDirectory(prefix=".export-", dir=out.parent) as temporary:
        measures = export.tolerance is None
        prepared = prepare_model(
            trained,
            Path(temporary),
            None if alone else merge,
            with_metric=measures,
            announce=announce,
        )
        return export_prepared(prepared, export, out, announce, results)


def check_adapter_alone(trained: TrainedModel, export: Export) -> None:
    """Check that the run has an adapter that the exporter's engine can serve.

    Raises:
        UsageError: the run has no such adapter.
    """
    if detect_artifact_format(trained.artifact) != "adapter":
        raise UsageError(
            f"{export.name}: the run trained all weights, so there is no adapter to export",
            hint="export the whole model, without the option for adapters",
        )
    if isinstance(export.exporter, AdapterExporter):
        export.exporter.check_adapter(trained.artifact)


def prepare_model(
    trained: TrainedModel,
    folder: Path,
    merge: MergeFunction | None = write_merged,
    *,
    with_metric: bool = True,
    announce: AnnounceFunction = _announce_nothing,
) -> PreparedModel:
    """Run the trained model as a reference, and write it to an empty folder for exporters.

    ``merge`` writes the config and weights of a merged model, which is then checked. Without it, an
    adapter's folder describes the model but has no weights. With ``with_metric``, also measure the
    run's metric, which is compared for exports that round weights.

    Raises:
        EnvironmentProblem: the disk is full.
        GateError: the merged model differs from the trained model.
        IntegrityError: the artifact's files have changed.
    """
    problems = verify_folder(trained.artifact)
    if problems:
        raise IntegrityError(f"{trained.artifact}: {problems[0]}")
    checks = ExportChecks()
    template = Template.from_tokenizer(load_tokenizer(trained.artifact))
    announce("running the trained model on test rows")
    model = load_trained(trained)
    reference = Reference.observe(model, template, trained.test)
    expected = None
    if with_metric and trained.measure is not None:
        expected = trained.measure(TorchTextModel(model, template, trained.merge.device))
    del model
    release_memory()
    is_merged = detect_artifact_format(trained.artifact) == "adapter" and merge is not None
    if is_merged:
        announce("merging the adapter into the base model")
    with _full_disk(folder):
        write_model(trained, folder, merge or write_config)
    if is_merged:
        check_merged_folder(checks, trained, folder, reference)
    return PreparedModel(
        trained=trained,
        template=template,
        folder=folder,
        reference=reference,
        expected=expected,
        merge_checks=checks.passed,
    )


def check_merged_folder(
    checks: ExportChecks, trained: TrainedModel, folder: Path, reference: Reference
) -> None:
    """Read a merged model back, and compare it with the trained model."""
    template = Template.from_tokenizer(load_tokenizer(trained.artifact))
    merged = load_base(folder, device=trained.merge.device, dtype=torch.float32).model
    rows = score_rows(TorchTextModel(merged, template, trained.merge.device), trained.test)
    check_merge(checks, reference, rows)
    del merged
    release_memory()

    def check_tensors() -> str:
        lost, count = list_lost_changes(trained.base, trained.artifact, folder)
        require(not lost, describe_lost(lost))
        return f"{format_count(count, 'changed tensor')}, all in the merged model"

    checks.check("changed tensors", check_tensors)


def export_prepared(
    prepared: PreparedModel,
    export: Export,
    out: Path,
    announce: AnnounceFunction = _announce_nothing,
    results: str = "",
) -> dict[str, Any]:
    """Write a prepared model to ``out`` unless a check fails; return the certificate.

    Raises:
        EnvironmentProblem: one of the exporter's libraries failed.
        GateError: a check failed; the message names it.
    """
    certificate: dict[str, Any] = {}

    def write(folder: Path) -> None:
        certificate.update(_write_and_check(prepared, export, folder, announce))
        if isinstance(export.exporter, ServedExporter):
            certificate["serve"] = export.exporter.serve_command(None)
        text = json.dumps(certificate, indent=2, ensure_ascii=False) + "\n"
        (folder / CERTIFICATE_FILE).write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(
            _build_card(out.name, certificate, results), encoding="utf-8"
        )

    with _engine_errors(export.name):
        commit_folder(out, write, {"format": EXPORT})
    return certificate


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Convert libraries' exceptions about a full disk to an error that explains it."""
    try:
        yield
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise EnvironmentProblem(
            f"{folder.parent}: the disk is full",
            hint="the merged model, in 32 bits, and its export must fit there: free some space, "
            "or choose a folder on another disk with --out",
        ) from error


@contextmanager
def _engine_errors(name: str) -> Iterator[None]:
    """Add the exporter's name to errors of its libraries, even if they would end the process."""
    try:
        yield
    except (TunesmithError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()) or "no message"
        raise EnvironmentProblem(
            f"{name}: the exporter failed: {type(error).__name__}: {reason:.300}",
            hint="the exporter may not support this architecture; try another one, such as "
            "safetensors",
        ) from error


def _write_and_check(
    prepared: PreparedModel, export: Export, out: Path, announce: AnnounceFunction
) -> dict[str, Any]:
    checks, trained = ExportChecks(passed=dict(prepared.merge_checks)), prepared.trained
    announce(f"writing {export.name}")
    if isinstance(export.exporter, AdapterExporter):
        export.exporter.export_adapter(trained.base, trained.artifact, out)
    else:
        export.exporter.export(prepared.folder, out)
    announce("loading the export, and comparing it with the trained model")
    check_files(checks, export.exporter, out, prepared.folder)
    metric = None
    with export.exporter.open(out) as engine:
        check_engine(checks, engine, prepared.reference, export.tolerance)
        if export.tolerance is None and prepared.expected is not None and trained.measure:
            found = trained.measure(EngineModel(engine, prepared.template))
            groups = [row.group for row in trained.test[: len(found[0].values)]]
            metric = compare_metric(prepared.expected[0], found[0], groups)
            check = partial(_check_metric, metric, trained.higher_is_better)
            checks.check("metric", check)
    return {
        "schema": SCHEMA,
        "exporter": export.name,
        "options": export.options,
        "rows": len(prepared.reference.rows),
        "checks": checks.passed,
        "not_verified": checks.not_verified,
        **checks.measured,
        **({"metric": metric} if metric else {}),
    }


def load_trained(trained: TrainedModel) -> nn.Module:
    """Return the trained model from its saved files, computing in float32."""
    model: nn.Module
    if detect_artifact_format(trained.artifact) == "adapter":
        base = load_training_base(trained.base, trained.merge)
        model = attach_adapter(base, trained.artifact)
    else:
        device = trained.merge.device
        model = load_base(trained.artifact, device=device, dtype=torch.float32).model
    return model


def write_model(trained: TrainedModel, folder: Path, merge: MergeFunction = write_merged) -> None:
    """Write the folder that exporters read: a merged model, or links to a fully trained one."""
    files = [file for file in sorted(trained.artifact.iterdir()) if file.is_file()]
    if detect_artifact_format(trained.artifact) == "adapter":
        merge(trained.base, trained.artifact, folder, trained.merge, torch.float32)
        for file in files:
            if file.name not in _NOT_COPIED:
                shutil.copyfile(file, folder / file.name)
    else:
        for file in files:
            if file.name != MANIFEST:
                (folder / file.name).symlink_to(file.resolve())
    for name in _SENTENCEPIECE:
        if (trained.base / name).is_file() and not (folder / name).exists():
            (folder / name).symlink_to((trained.base / name).resolve())


def write_config(
    base: Path, adapter: Path, out: Path, options: MergeOptions, dtype: torch.dtype
) -> None:
    """Write the config of a base model as merging does, but no weights."""
    shutil.copyfile(base / "config.json", out / "config.json")
    write_legacy_config_keys(out)


def compare_metric(
    before: Measurement, after: Measurement, groups: Sequence[str | None] | None = None
) -> dict[str, Any]:
    """Return a metric of the trained and of the exported model, and their difference, as JSON.

    ``low`` and ``high`` are the 95 % interval of the mean paired difference over ``rows``.
    ``groups`` holds the group of each row, or None.
    """
    interval = paired_difference(before.values, after.values, before.weights, groups=groups)
    return {
        "name": before.metric,
        "before": _mean(before),
        "after": _mean(after),
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "rows": interval.n,
    }


def _mean(measurement: Measurement) -> float:
    return float(np.average(measurement.values, weights=measurement.weights))


def _check_metric(metric: dict[str, Any], higher_is_better: bool) -> str:
    """Check that rounding did not make the run's metric worse."""
    worse = metric["high"] < 0 if higher_is_better else metric["low"] > 0
    text = format_estimate(metric["difference"], metric["low"], metric["high"], signed=True)
    name, rows = metric["name"], metric["rows"]
    tested = format_count(rows, "test row")
    require(not worse, f"{name} gets worse: it changes by {text} on {tested}")
    values = f"{format_number(metric['before'])}, exported {format_number(metric['after'])}"
    return f"{name} {values}, difference {text}, {format_count(rows, 'row')}"


def _build_card(name: str, certificate: dict[str, Any], results: str) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in certificate["options"].items())
    rows = "\n".join(f"| {check} | {text} |" for check, text in certificate["checks"].items())
    serve = certificate.get("serve")
    usage = f"\n```console\n$ {serve}\n```\n" if serve else ""
    return (
        f"""---
tags: [tunesmith, {certificate["exporter"]}]
---

# {name}

Exported with tunesmith by `{certificate["exporter"]}`{f" ({options})" if options else ""}.
The export was loaded and compared with the trained model on {
            format_count(certificate["rows"], "test row")
        }.
`{CERTIFICATE_FILE}` contains the results as JSON.

| check | result |
|---|---|
{rows}
{usage}
{results}
""".rstrip()
        + "\n"
    )
