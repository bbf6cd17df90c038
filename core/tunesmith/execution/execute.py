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

* Data, checks and model are always repeated. ``ResumeCheck`` compares them with the recorded
  fingerprints, because a resumed run must give the result of an uninterrupted one.
* A baseline or evaluator is skipped if its measurements are in the report and their file exists.
* Training is skipped if it finished; otherwise the technique continues from the newest checkpoint.
* The verdict is always computed again.
"""

from __future__ import annotations

import gc
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunesmith import distributed
from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import Evaluators, choose_evaluators, default_evaluators
from tunesmith.config.trust import trust_code
from tunesmith.contracts import (
    Artifact,
    BaselineTask,
    Dataset,
    Measurement,
    RunContext,
    Technique,
    TextModel,
)
from tunesmith.data.subset import Subset
from tunesmith.errors import (
    ConfigError,
    DataError,
    EnvironmentProblem,
    Problem,
    PromptTooLongError,
)
from tunesmith.events import BASE, JSON, TUNED, FindingReported
from tunesmith.execution import resume_checks
from tunesmith.execution.baselines import BaselineChoice
from tunesmith.execution.emitter import Emitter, Reporters, take_findings
from tunesmith.execution.encoder import find_encoder
from tunesmith.execution.evaluate import evaluate_model, exclude_prompts
from tunesmith.execution.gate import check_gate, check_warnings
from tunesmith.execution.guards import create_guards
from tunesmith.execution.measure_part import measure_part
from tunesmith.execution.model_review import ModelReviewer, read_model_config
from tunesmith.execution.report import TRAINING_ROWS, Report, build_report
from tunesmith.execution.resume_checks import ResumeCheck
from tunesmith.execution.run_data import (
    DataParts,
    build_data_event,
    build_job,
    load_data,
    write_skipped,
)
from tunesmith.execution.run_events import (
    build_run_finished,
    build_run_started,
    list_used_plugins,
    to_reported_error,
)
from tunesmith.execution.suitable_baselines import choose_baselines, list_evaluators, list_excluded
from tunesmith.execution.wrapped_model import CachedModel
from tunesmith.fence import attribute_errors_to, call_in_fence
from tunesmith.fence.returned import blame_plugin, check_technique_artifact
from tunesmith.offers import BaselineOffer, EvaluatorOffer, Offered
from tunesmith.plan import Component, Evidence, Plan
from tunesmith.records import Record
from tunesmith.signals import StopSignalHandler
from tunesmith.storage import (
    Checkpoints,
    EventLog,
    RunFolder,
    lock,
    read_known_events,
    write_atomic,
)
from tunesmith.text import redact_all

INITIAL_MODEL = "initial-model"
"""Label of the model that training started from, if that is not the base model."""


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
        accept_changes: resume although data, options, base model or plugins changed.
        force: start although a review refuses the run, for example for its predicted memory.

    Raises:
        TunesmithError: the error that ended the run; ``report.json`` is written in any case.
        UsageError: the folder's events are lost, and changes were not accepted.
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
    """Write ``report.json`` of a run with secrets redacted, unless its content is up to date."""
    text = json.dumps(redact_all(report.to_json()), indent=2, ensure_ascii=True) + "\n"
    path = folder.path / "report.json"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomic(path, text)


def _write_last_report(folder: RunFolder, report: Report) -> None:
    """Write the report of an ended run; a failure is only a warning, as the events are kept."""
    try:
        write_report(folder, report)
    except EnvironmentProblem as problem:
        warnings.warn(f"{problem.message}; `tunesmith report` reads the events", stacklevel=2)


def _execute_phases(
    plan: Plan,
    catalog: Catalog,
    folder: RunFolder,
    emit: Emitter,
    reviewer: ModelReviewer,
    resume_check: ResumeCheck,
) -> _ModelPhases:
    """Execute all phases up to the evaluation of the tuned model; return the model phases."""
    _record_start(plan, folder, emit, resume_check)
    with emit.part("preparation"):
        parts = _load_and_review_data(plan, catalog, folder, emit, resume_check)
        evaluators = choose_evaluators(plan, catalog, parts.test)
        model = _fetch_model(plan, parts, emit, reviewer, resume_check)
        with emit.call(plan.technique.offered.plugin, "build"):
            technique = plan.technique.offer.build(plan.technique.config)
    phases = _ModelPhases(plan, technique, model, parts, evaluators, emit, folder)
    with emit.part("baselines"):
        phases.evaluate_untuned(catalog.offers(BaselineOffer))
    with emit.part("training"):
        artifact = phases.train()
    with emit.part("evaluation"):
        phases.evaluate_stages(artifact)
        phases.evaluate_tuned(artifact)
    return phases


def _record_start(plan: Plan, folder: RunFolder, emit: Emitter, resume_check: ResumeCheck) -> None:
    """Emit RunStarted; a resumed run must have the same options and plugins as at its start."""
    then = emit.report.started
    started = build_run_started(plan, folder, resumed=then is not None)
    if then is not None:
        changes = resume_checks.check_options(then, started)
        resume_check.require_unchanged(
            "the options", changes, "restore run.toml or start a new run"
        )
        # Reporters are not compared: they only observe, so they cannot change the result.
        plugins = list_used_plugins(replace(plan, reporters=()))
        changes = resume_checks.check_plugins(then.plugins, plugins)
        resume_check.require_unchanged("plugins", changes, "install the earlier versions")
    emit(started)
    if resume_check.lost:
        text = f"accepted: events.jsonl no longer records {', '.join(resume_check.lost)}"
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
    """Fetch the base model; a resumed run must get the same model as at its start.

    The run is reviewed before the download if the model's config is already known, otherwise after
    it.
    """
    then = emit.report.model
    reviewer.review(parts.train, parts.test, plan.found_model.config)
    with emit.phase("model"):
        folder = plan.found_model.fetch()
        event = resume_checks.build_model_event(plan.found_model, folder)
    if then is not None:
        changes = resume_checks.check_model(then, event)
        hint = "restore the model's files or start a new run"
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
        resume_check.require_unchanged("the data", changes, "restore the data or start a new run")
    emit(event)
    with emit.phase("checks"):
        found = list(collect_findings(plan, catalog, dataset, parts))
    for finding in found:
        emit(finding)
    # Do not use the errors in emit.report: one that ended an earlier attempt may be fixed now.
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


@dataclass(frozen=True)
class _ModelPhases:
    """The phases of a run that need a model in memory, and their shared state."""

    plan: Plan
    technique: Technique
    model: Path
    parts: DataParts
    evaluators: Evaluators
    emit: Emitter
    folder: RunFolder

    def evaluate_untuned(self, offers: Iterable[Offered[BaselineOffer[Any]]]) -> None:
        """Evaluate the baselines, and measure the base model's abilities outside the task."""
        base = cache(lambda: self._open_model("base model", None))
        self._evaluate_baselines(offers, base)
        if self.plan.trains and self._pending_evaluators(BASE):
            self._evaluate(BASE, base())

    def _evaluate_baselines(
        self, offers: Iterable[Offered[BaselineOffer[Any]]], base: Callable[[], TextModel]
    ) -> None:
        """Choose each baseline's best variant on validation rows; evaluate it on test rows.

        Baselines in ``offers`` that suit the rows but are not used are reported.
        """
        first = next((e for e in self.evaluators if not e.offer.is_side_effect), None)
        if first is None:
            return
        for event in list_excluded(self.plan, offers, self.parts.train, first):
            if event.baseline not in self.emit.report.baselines:
                self.emit(event)
        baselines = choose_baselines(self.plan, self.parts.train, first)
        pending = [
            baseline
            for baseline in baselines
            if self._pending_evaluators(baseline.offer.name, baseline)
        ]
        if not pending:
            return
        options = self.plan.baseline_options
        task = BaselineTask(
            train=self.parts.train,
            base=base,
            seed=self.plan.run.seed,
            system_prompt=options.system_prompt,
            encoder=find_encoder(self.plan),
            encodes_everywhere=self.plan.encodes_everywhere,
        )
        run = self._run_so_far()
        choice = BaselineChoice(self.plan, task, self.parts, first, run, self.emit)
        chosen, left = choice.choose(pending, options.budget_seconds)
        for baseline, model in chosen:
            rows = choice.select_rows(baseline, len(self.parts.test), left)
            try:
                self._evaluate(baseline.offer.name, model, baseline, rows)
            except PromptTooLongError as error:
                choice.skip(baseline, error.message)

    def train(self) -> Artifact:
        """Train, unless an earlier process of this run has finished the training."""
        trained = self.emit.report.training_finished.get("")
        if trained is not None:
            return Artifact(path=self.folder.path / trained.artifact, format=trained.format)
        distributed.signal_training_start()
        # A model is full of reference cycles. Without this call, the baselines' base model would
        # still be in memory during training.
        gc.collect()
        on_problem = self._report_checkpoint_problem
        checkpoints = Checkpoints(self.folder.checkpoints, on_problem=on_problem)
        job = build_job(self.plan, self.model, self.parts, checkpoints, self.emit)
        plugin = self.plan.technique.offered.plugin
        with self.emit.call(plugin, "train"):
            artifact = self.technique.train(job)
        with blame_plugin(plugin, "train"):
            return check_technique_artifact(artifact)

    def evaluate_stages(self, artifact: Artifact) -> None:
        """Evaluate the initial model and the artifacts of earlier stages that are text models."""
        technique = self.plan.technique
        if self._pending_evaluators(INITIAL_MODEL):
            find = technique.offer.find_initial_model
            path = call_in_fence(technique.offered, "find_initial_model", find, technique.config)
            if path is not None:
                self._evaluate(INITIAL_MODEL, self._open_model("initial model", path))
        for stage, trained in list(self.emit.report.training_finished.items()):
            path = self.folder.path / trained.artifact
            if not stage or not trained.is_text_model or path == artifact.path:
                continue
            if self._pending_evaluators(stage):
                self._evaluate(stage, self._open_model(f"{stage} model", path))

    def evaluate_tuned(self, artifact: Artifact) -> None:
        """Evaluate the final artifact, after reading it back from disk."""
        trained = self.emit.report.training_finished.get("")
        pending = [label for label in (TUNED, TRAINING_ROWS) if self._pending_evaluators(label)]
        if pending and (trained is None or trained.is_text_model):
            model = self._open_model("tuned model", artifact.path)
            for label in pending:
                self._evaluate(label, model)

    def _open_model(self, phase: str, artifact: Path | None) -> TextModel:
        gc.collect()
        with self.emit.phase(phase), self.emit.call(self.plan.technique.offered.plugin, "open"):
            return self.technique.open(self.model, artifact, device=self.plan.run.device)

    def _evaluate(
        self,
        label: str,
        model: TextModel,
        baseline: Component[BaselineOffer[Any]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        run, folder = self._run_so_far(), self.folder.path
        records = self.parts.test if rows is None else Subset(self.parts.test, rows)
        if label == TRAINING_ROWS:
            records = self.parts.sample_training(self.plan.run.seed)
        plugin = baseline.offered.plugin if baseline else self.plan.technique.offered.plugin
        model = CachedModel(model)
        for evaluator in self._pending_evaluators(label, baseline):
            try:
                evaluate_model(
                    label, model, evaluator, records, self.emit, run, folder, plugin, rows
                )
            except PromptTooLongError as error:
                # Training skips rows that are too long, up to `max_skipped`. No test row may be
                # skipped.
                if label != TRAINING_ROWS:
                    raise
                records = list(exclude_prompts(records, error.prompts))
                evaluate_model(label, model, evaluator, records, self.emit, run, folder, plugin)

    def _run_so_far(self) -> RunContext:
        trained = self.emit.report.training_finished.items()
        paths = {stage: self.folder.path / event.artifact for stage, event in trained}
        return RunContext(
            model=self.model,
            train=self.parts.train,
            test=self.parts.test,
            validation=self.parts.validation,
            measure_first=self._measure_first,
            device=self.plan.run.device,
            artifacts=MappingProxyType(paths),
            open=lambda artifact: self.technique.open(
                self.model, artifact, device=self.plan.run.device
            ),
        )

    def _measure_first(self, model: TextModel, records: Sequence[Record]) -> Measurement:
        first = self.evaluators[0]
        with attribute_errors_to(first.offered.plugin):
            built = first.offer.build(first.config)
            measured = measure_part(first.offer, built, model, records, self._run_so_far())
            return next(m for m in measured if m.metric == first.offer.metrics[0].name)

    def _pending_evaluators(
        self, label: str, baseline: Component[BaselineOffer[Any]] | None = None
    ) -> list[Component[EvaluatorOffer[Any]]]:
        """Return the evaluators that still have to evaluate the model ``label`` in this run."""
        measured = (self.emit.report.measured | self.emit.report.training_rows).values()
        done = {
            (e.model, e.evaluator) for e in measured if (self.folder.path / e.records).is_file()
        }
        return [
            evaluator
            for evaluator in (
                list_evaluators(self.evaluators, baseline) if baseline else self.evaluators
            )
            if (label, evaluator.id) not in done
            and (label != TRAINING_ROWS or evaluator.offer.on_training_rows)
            and (label in (BASE, TUNED) if evaluator.offer.is_side_effect else label != BASE)
        ]

    def _report_checkpoint_problem(self, text: str) -> None:
        self.emit(FindingReported(level="warning", source="checkpoints", message=text))


def _collect_evidence(phases: _ModelPhases, report: Report) -> Evidence:
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
