"""Execute a plan, phase by phase, and write its report. Every run happens here.

A run has these phases:

1. Lock the run folder and open its event log.
2. Load, split and review the data.
3. Fetch the base model, and review the run with its config.
4. Evaluate each baseline.
5. Train, and commit the artifact.
6. Read the artifact back from disk and evaluate it.
7. Judge the results, and check the exit criteria.

Each phase emits events. A resumed run executes the same phases in the same order. It has no saved
program state: ``report``, rebuilt from ``events.jsonl``, decides what is left to do.

* The data, the checks and the model are always read again. ``ResumeCheck`` compares them with the
  recorded fingerprints, because a resumed run must give the result of an uninterrupted one.
* A baseline or evaluator is skipped if its measurements are in the report and their file exists.
* Training is skipped if it finished; otherwise the technique continues from the newest checkpoint.
* The verdict is always computed again.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tunesmith import distributed
from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import choose_evaluators, default_evaluators
from tunesmith.config.trust import trust_code
from tunesmith.contracts import Dataset
from tunesmith.errors import (
    ConfigError,
    DataError,
    EnvironmentProblem,
    Problem,
)
from tunesmith.events import JSON, FindingReported
from tunesmith.execution import resume_checks
from tunesmith.execution.emitter import Emitter, Reporters, take_findings
from tunesmith.execution.gate import check_gate, check_warnings
from tunesmith.execution.guards import create_guards
from tunesmith.execution.model_phases import ModelPhases
from tunesmith.execution.model_review import ModelReviewer, read_model_config
from tunesmith.execution.report import Report, build_report
from tunesmith.execution.resume_checks import ResumeCheck
from tunesmith.execution.run_data import (
    DataParts,
    build_data_event,
    load_data,
    write_skipped,
)
from tunesmith.execution.run_events import (
    build_run_finished,
    build_run_started,
    list_used_plugins,
    to_reported_error,
)
from tunesmith.offers import BaselineOffer
from tunesmith.plan import Evidence, Plan
from tunesmith.signals import StopSignalHandler
from tunesmith.storage import (
    EventLog,
    RunFolder,
    lock,
    read_known_events,
    write_atomic,
)
from tunesmith.text import redact_all


def run(
    plan: Plan,
    catalog: Catalog,
    folder: RunFolder,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    force: bool = False,
) -> Report:
    """Execute a plan in a run folder.

    Args:
        resume: continue the run that the folder's events describe.
        accept_changes: resume even if data, options, base model or plugins changed.
        force: start even if a review refuses the run, for example for its predicted memory.

    Raises:
        TunesmithError: the error that ended the run; ``report.json`` is written in any case.
        UsageError: the event log lacks events of the run, and the user did not accept changes.
    """
    earlier = load_report(folder) if resume else Report()
    lost = resume_checks.find_lost_events(folder, earlier, accept_changes) if resume else []
    with (
        lock(folder.path),
        distributed.announce_rank_zero(folder.path),
        EventLog(folder.events) as log,
        StopSignalHandler() as interrupts,
        Reporters(plan, folder) as reporters,
    ):
        emit = Emitter(log, reporters, create_guards(plan.run.max_minutes), interrupts)

        def record_late(finding: FindingReported) -> None:
            emit(finding)
            write_report(folder, emit.report)

        reporters.on_close_failure = record_late
        if resume:
            emit.report = load_report(folder)  # another process may have written to it
        else:
            trust_code(plan.to_json(), folder.path)  # first, as run.toml makes a run resumable
            write_atomic(folder.path / "run.toml", plan.to_toml())
        started = time.perf_counter()
        verdict: JSON = {}
        error: BaseException | None = None
        try:
            reviewer = ModelReviewer(plan, catalog, emit, force)
            resume_check = ResumeCheck(emit, accept_changes, lost)
            phases = _execute_phases(plan, catalog, folder, emit, reviewer, resume_check)
            report = emit.report
            with emit.phase("verdict"):
                verdict = catalog.judge(_collect_evidence(phases, report))
            for finding in take_findings(catalog.plugins):
                emit(finding)
            check_gate(plan.gate, report.measured.values(), verdict, report.gates.values())
        except BaseException as caught:
            error = to_reported_error(caught)
            if error is caught:
                raise
            raise error from caught
        finally:
            emit(build_run_finished(error, verdict, time.perf_counter() - started))
            _write_last_report(folder, emit.report)
        return emit.report


def load_report(folder: RunFolder) -> Report:
    """Build the report from the events of a run folder, even if the run is unfinished."""
    return build_report(read_known_events(folder.events))


def write_report(folder: RunFolder, report: Report) -> None:
    """Write the run's ``report.json`` with secrets redacted, unless it is already up to date."""
    text = json.dumps(redact_all(report.to_json()), indent=2, ensure_ascii=True) + "\n"
    path = folder.path / "report.json"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomic(path, text)


def _write_last_report(folder: RunFolder, report: Report) -> None:
    """Write the report of an ended run; only warn about a failure, as the events are kept."""
    try:
        write_report(folder, report)
    except EnvironmentProblem as problem:
        text = f"{problem.message}; `tunesmith report` still works, because it reads events.jsonl"
        warnings.warn(text, stacklevel=2)


def _execute_phases(
    plan: Plan,
    catalog: Catalog,
    folder: RunFolder,
    emit: Emitter,
    reviewer: ModelReviewer,
    resume_check: ResumeCheck,
) -> ModelPhases:
    """Execute all phases up to the evaluation of the tuned model; return the model phases."""
    _record_start(plan, folder, emit, resume_check)
    with emit.part("preparation"):
        parts = _load_and_review_data(plan, catalog, folder, emit, resume_check)
        evaluators = choose_evaluators(plan, catalog, parts.test)
        model = _fetch_model(plan, parts, emit, reviewer, resume_check)
        with emit.call(plan.technique.offered.plugin, "build"):
            technique = plan.technique.offer.build(plan.technique.config)
    phases = ModelPhases(plan, technique, model, parts, evaluators, emit, folder)
    with emit.part("baselines"):
        phases.evaluate_untuned(catalog.offers(BaselineOffer))
    with emit.part("training"):
        artifact = phases.train()
    with emit.part("evaluation"):
        phases.evaluate_stages(artifact)
        phases.evaluate_tuned(artifact)
    return phases


def _record_start(plan: Plan, folder: RunFolder, emit: Emitter, resume_check: ResumeCheck) -> None:
    """Emit RunStarted; require a resumed run to have the options and plugins of its start."""
    then = emit.report.started
    started = build_run_started(plan, folder, resumed=then is not None)
    if then is not None:
        changes = resume_checks.check_options(then, started)
        resume_check.require_unchanged("the options", changes, "restore run.toml, start a new run")
        # Reporters are not compared: they only observe, so they cannot change the result.
        plugins = list_used_plugins(replace(plan, reporters=()))
        changes = resume_checks.check_plugins(then.plugins, plugins)
        resume_check.require_unchanged("plugins", changes, "install the earlier versions")
    emit(started)
    if resume_check.lost:
        text = f"resumed although events.jsonl no longer records {', '.join(resume_check.lost)}"
        emit(FindingReported(level="warning", source="resume", message=text))
    if then is not None and (changed := resume_checks.check_libraries(then, started)):
        text = (
            f"library versions changed since the run started: {'; '.join(changed)}; "
            "results may differ in the last bits"
        )
        emit(FindingReported(level="info", source="resume", message=text))


def _fetch_model(
    plan: Plan, parts: DataParts, emit: Emitter, reviewer: ModelReviewer, check: ResumeCheck
) -> Path:
    """Fetch the base model; require a resumed run to get the model of its start.

    The run is reviewed before the download if the model's config is already known, and after it if
    the config or the tokenizer was not.
    """
    then = emit.report.model
    reviewer.review(parts.train, parts.test, plan.found_model.config)
    with emit.phase("model"):
        folder = plan.found_model.fetch()
        event = resume_checks.build_model_event(plan.found_model, folder)
    if then is not None:
        changes = resume_checks.check_model(then, event)
        hint = "restore the model's files, start a new run"
        check.require_unchanged("the base model", changes, hint)
    reviewer.review(parts.train, parts.test, read_model_config(folder))
    emit(event)
    return folder


def _load_and_review_data(
    plan: Plan, catalog: Catalog, folder: RunFolder, emit: Emitter, resume_check: ResumeCheck
) -> DataParts:
    """Load and split the data and let plugins review it.

    Raises:
        ConfigError: a review found errors.
        GateError: a review found warnings, and ``[gate] strict`` is set.
    """
    then = emit.report.data
    with emit.phase("data"):
        try:
            dataset, parts = load_data(plan)
        except DataError as error:
            write_skipped(folder, error.skipped)
            raise
    write_skipped(folder, dataset.skipped)
    event = build_data_event(dataset, parts)
    if then is not None:
        changes = resume_checks.check_data(then, event)
        resume_check.require_unchanged("the data", changes, "restore the data, start a new run")
    emit(event)
    if dataset.test is None and emit.report.trained_on not in ("", event.fingerprint):
        message = "the data changed after training began, so test rows may have been trained on"
        emit(
            FindingReported(
                level="error",
                source="resume",
                message=message,
                count=event.test,
                hint="start a new run",
                test_rows=list(range(event.test)),
            )
        )
    with emit.phase("checks"):
        found = list(collect_findings(plan, catalog, dataset, parts))
    for finding in found:
        emit(finding)
    # Do not use the errors in emit.report: an error of an earlier attempt may be fixed by now.
    errors = [n for n in found if n.level == "error" and not n.test_rows]
    if errors:
        raise ConfigError([Problem(n.source, n.text) for n in errors])
    check_warnings(plan.gate, found)
    return parts


def collect_findings(
    plan: Plan, catalog: Catalog, dataset: Dataset, parts: DataParts
) -> Iterator[FindingReported]:
    """Yield the findings of plugins about the plan and the data, before any model is read."""
    yield from take_findings(catalog.plugins)
    for warning in dataset.warnings:
        yield FindingReported(level="warning", source="data", message=warning)
    findings = [
        *catalog.review_plan(plan),
        *((plan.split.offered.plugin, finding) for finding in parts.findings),
        *catalog.review_data(
            dataset,
            plan,
            evaluators=plan.evaluators or default_evaluators(catalog, parts.measured),
            train=parts.train,
            validation=parts.validation,
            test=parts.test,
        ),
    ]
    for plugin, finding in findings:
        yield finding.to_event(plugin.full_name)


def _collect_evidence(phases: ModelPhases, report: Report) -> Evidence:
    return Evidence(
        plan=phases.plan,
        folder=phases.folder.path,
        data=report.data,
        train=phases.parts.train,
        metrics={m.name: m for e in phases.evaluators for m in e.offer.metrics},
        findings=tuple(report.findings),
        measured=tuple(report.measured.values()),
        baselines=tuple(report.baselines.values()),
    )
