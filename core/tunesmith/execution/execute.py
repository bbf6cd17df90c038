"""From a plan to a report: the only place where a run happens.

One straight path: lock the folder, read and split the data, review it, measure the baselines,
train, read the artifact back from disk, measure it, judge. Every step leaves an event; a resumed
run takes the same path and skips what its events say is done.
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith import distributed
from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import default_evaluators
from tunesmith.contracts import Artifact, Dataset, Job, RunSoFar, Technique, TextModel
from tunesmith.data.splits import leaks, split
from tunesmith.errors import ConfigError, DataError, Problem, RunStopped, TunesmithError
from tunesmith.events import (
    JSON,
    DataRead,
    Event,
    Noticed,
    RunFinished,
    RunStarted,
    from_json,
)
from tunesmith.execution import resume_checks
from tunesmith.execution.baselines import Prompted, choose_shots
from tunesmith.execution.emitter import Reporters, Telling
from tunesmith.execution.evaluate import measure
from tunesmith.execution.guards import default_guards
from tunesmith.execution.memory_check import Admission, config_in
from tunesmith.execution.report import Report, fold
from tunesmith.execution.resume_checks import Drift
from tunesmith.execution.verdict import TUNED, check_gate, judge
from tunesmith.execution.versions import versions
from tunesmith.offers import EvaluatorOffer
from tunesmith.plan import Component, Plan
from tunesmith.plugins import blame
from tunesmith.records import Message, Record, content_key, last_exchange
from tunesmith.signals import Interrupts
from tunesmith.storage import Checkpoints, EventLog, RunFolder, lock, read_events, write_atomic

DEFAULT_HOLDOUT_ROWS = 500
"""A fifth of the data is held out, but not more than this, unless the run file says otherwise."""


@dataclass(frozen=True)
class Parts:
    """The data of a run: what is learned from, and what is kept to measure on."""

    train: tuple[Record, ...]
    heldout: tuple[Record, ...]


def run(
    plan: Plan,
    catalog: Catalog,
    folder: RunFolder,
    *,
    resume: bool = False,
    accept_drift: bool = False,
    force: bool = False,
) -> Report:
    """Carry out a plan in a run folder; ``force`` begins also what does not fit into memory.

    Raises:
        TunesmithError: whatever ended the run; ``report.json`` is written all the same.
    """
    with (
        lock(folder.path),
        distributed.leading(folder.path),
        EventLog(folder.events) as log,
        Interrupts() as interrupts,
        Reporters(plan, folder) as reporters,
    ):
        tell = Telling(log, reporters, default_guards(plan.run.max_minutes), interrupts)
        if resume:
            tell.report = recorded(folder)
        else:
            write_atomic(folder.path / "run.toml", plan.to_toml())
        started = time.perf_counter()
        verdict: JSON = {}
        error: BaseException | None = None
        try:
            admission = Admission(plan, catalog, tell, force)
            _work(plan, catalog, folder, tell, admission, accept_drift=accept_drift)
            verdict = _verdict(tell.report, folder)
            report = tell.report
            check_gate(plan.gate, report.measured.values(), verdict, report.gates.values())
        except BaseException as caught:
            error = caught
            raise
        finally:
            tell(_finished(error, verdict, time.perf_counter() - started))
            write_report(folder, tell.report)
        return tell.report


def recorded(folder: RunFolder) -> Report:
    """The report as far as the events of a run folder tell it."""
    events = (from_json(line) for line in read_events(folder.events))
    return fold(event for event in events if event is not None)


def write_report(folder: RunFolder, report: Report) -> None:
    """Write ``report.json`` below the run folder, unless it says just that already."""
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=True) + "\n"
    path = folder.path / "report.json"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomic(path, text)


def read_parts(plan: Plan) -> tuple[Dataset, Parts]:
    """Load the data and split it; nothing else happens here, so that ``check`` can do it too.

    Raises:
        DataError: the data cannot be used, or not by this technique.
    """
    with blame(plan.data.offered.plugin):
        dataset = plan.data.offer.build(plan.data.config).load()
    _refuse_unfit(dataset, plan)
    if dataset.heldout is not None:
        return dataset, Parts(tuple(dataset.train), tuple(dataset.heldout))
    records = list(dataset.train)
    holdout = plan.holdout
    if holdout is None:
        holdout = min(DEFAULT_HOLDOUT_ROWS, max(1, round(0.2 * len(records))))
    try:
        sides = split(
            [content_key(record) for record in records],
            holdout=holdout,
            seed=plan.run.seed,
            groups=[record.group for record in records],
            strata=_labels(records),
        )
    except ValueError as error:
        raise DataError("data.holdout", str(error)) from None
    train = tuple(records[index] for index in sides.train)
    return dataset, Parts(train, tuple(records[index] for index in sides.heldout))


def _work(
    plan: Plan,
    catalog: Catalog,
    folder: RunFolder,
    tell: Telling,
    admission: Admission,
    *,
    accept_drift: bool,
) -> None:
    """The straight path."""
    judge = Drift(tell, accept_drift)
    _start(plan, folder, tell, judge)
    parts = _data(plan, catalog, tell, judge)
    evaluators = plan.evaluators or default_evaluators(catalog, parts.heldout)
    admission.judge(parts.train, parts.heldout, plan.found_model.config)
    model = _model(plan, tell, judge)
    admission.judge(parts.train, parts.heldout, config_in(model))
    with blame(plan.technique.offered.plugin):
        technique = plan.technique.offer.build(plan.technique.config)
        bench = _Bench(plan, technique, model, parts, evaluators, tell, folder)
        bench.baselines()
        artifact = bench.train()
        admission.remember()
        bench.stages(artifact)
        bench.tuned(artifact)


def _start(plan: Plan, folder: RunFolder, tell: Telling, judge: Drift) -> None:
    """Announce the run, or that it goes on as what it began as."""
    then = tell.report.started
    started = _started(plan, folder, resumed=then is not None)
    if then is not None:
        back = "restore run.toml or start a new run"
        judge.judge("the options", resume_checks.options(then, started), back)
        deciding = used_plugins(replace(plan, reporters=()))  # who watches changes nothing
        found = resume_checks.plugins(then.plugins, deciding)
        judge.judge("plugins", found, "install the former versions")
    tell(started)
    if then is not None and (changed := resume_checks.libraries(then, started)):
        text = f"other versions than at the start: {'; '.join(changed)}; the last bits may differ"
        tell(Noticed(level="info", source="resume", message=text))


def _model(plan: Plan, tell: Telling, judge: Drift) -> Path:
    """Fetch the base model; on resume it must be the one that the run began with."""
    then = tell.report.model
    with tell.phase("model"):
        folder = plan.found_model.fetch()
        event = resume_checks.model_event(plan.found_model, folder)
    if then is not None:
        back = "restore the model's files or start a new run"
        judge.judge("the base model", resume_checks.model(then, event), back)
    tell(event)
    return folder


def _data(plan: Plan, catalog: Catalog, tell: Telling, judge: Drift) -> Parts:
    then = tell.report.data
    with tell.phase("data"):
        dataset, parts = read_parts(plan)
    event = data_event(dataset, parts)
    if then is not None:
        back = "restore the data or start a new run"
        judge.judge("the data", resume_checks.data(then, event), back)
    tell(event)
    found = list(notices(plan, catalog, dataset, parts))
    for notice in found:
        tell(notice)
    # Only today's: an error that ended an earlier attempt may have been mended since.
    errors = [notice for notice in found if notice.level == "error"]
    if errors:
        raise ConfigError([Problem(n.source, n.message) for n in errors])
    return parts


def data_event(dataset: Dataset, parts: Parts) -> DataRead:
    """What there is to say about the data that was read."""
    digest = hashlib.sha256()
    for record in (*parts.train, *parts.heldout):
        digest.update(f"{record!r}\n".encode("utf-8", "surrogatepass"))
    examples = [
        {"where": row.where, "cause": row.cause, "detail": row.detail}
        for row in dataset.left_out[:20]
    ]
    return DataRead(
        description=dataset.description,
        train=len(parts.train),
        heldout=len(parts.heldout),
        left_out=dict(Counter(row.cause for row in dataset.left_out)),
        examples=examples,
        fingerprint=digest.hexdigest(),
    )


def notices(plan: Plan, catalog: Catalog, dataset: Dataset, parts: Parts) -> Iterator[Noticed]:
    """What plugins and the leak check have to say before anything expensive happens."""
    findings = [*catalog.review_plan(plan), *catalog.review_data(dataset, plan)]
    for plugin, finding in findings:
        source = finding.where or plugin.full_name
        yield Noticed(level=finding.level, source=source, message=finding.message)
    found = leaks([*map(content_key, parts.train)], [*map(content_key, parts.heldout)])
    rows = {leak.heldout_index for leak in found}
    if rows:
        first = found[0]
        yield Noticed(
            level="warning",
            source="data",
            message=(
                f"{len(rows)} of {len(parts.heldout)} held-out rows are the same as, or nearly "
                f"the same as, a training row: results will look better than they are; first: "
                f"{parts.heldout[first.heldout_index].source} and "
                f"{parts.train[first.train_index].source}"
            ),
        )


@dataclass(frozen=True)
class _Bench:
    """A technique with everything it works on: the expensive half of a run."""

    plan: Plan
    technique: Technique
    model: Path
    parts: Parts
    evaluators: Sequence[Component[EvaluatorOffer[Any]]]
    tell: Telling
    folder: RunFolder

    def baselines(self) -> None:
        """Measure what prompting alone reaches, with one copy of the base model."""
        options = self.plan.baselines
        shots = choose_shots(self.parts.train, options.shots, self.plan.run.seed)
        wanted: dict[str, tuple[Message, ...]] = {"base": ()} if options.zero_shot else {}
        if shots:
            wanted["few-shot"] = shots
        due = [label for label in wanted if self._unmeasured(label)]
        if not due:
            return
        base = self._open("base model", None)
        for label in due:
            self._measure(label, Prompted(base, options.system_prompt, wanted[label]))

    def train(self) -> Artifact:
        """Train, unless an earlier process of this run has finished that already."""
        trained = self.tell.report.trained.get("")
        if trained is not None:
            return Artifact(path=self.folder.path / trained.artifact, format=trained.format)
        distributed.call()
        gc.collect()  # a model is a knot of references: the base would stay beside the trained one
        checkpoints = Checkpoints(self.folder.checkpoints, on_problem=self._problem)
        return self.technique.train(
            job_of(self.plan, self.model, self.parts, checkpoints, self.tell)
        )

    def stages(self, artifact: Artifact) -> None:
        """Measure what earlier stages left behind, where that is a text model."""
        for stage, trained in list(self.tell.report.trained.items()):
            path = self.folder.path / trained.artifact
            if stage and trained.answers and path != artifact.path and self._unmeasured(stage):
                self._measure(stage, self._open(f"{stage} model", path))

    def tuned(self, artifact: Artifact) -> None:
        """Measure what was saved, as it is read back from disk."""
        trained = self.tell.report.trained.get("")
        answers = trained is None or trained.answers
        if answers and self._unmeasured(TUNED):
            self._measure(TUNED, self._open("tuned model", artifact.path))

    def _open(self, phase: str, artifact: Path | None) -> TextModel:
        gc.collect()
        with self.tell.phase(phase):
            return self.technique.open(self.model, artifact, device=self.plan.run.device)

    def _measure(self, label: str, model: TextModel) -> None:
        run = self._so_far()
        for evaluator in self._unmeasured(label):
            measure(label, model, evaluator, self.parts.heldout, self.tell, run, self.folder.path)

    def _so_far(self) -> RunSoFar:
        trained = self.tell.report.trained.items()
        return RunSoFar(
            model=self.model,
            device=self.plan.run.device,
            artifacts={stage: self.folder.path / event.artifact for stage, event in trained},
            open=lambda artifact: self.technique.open(
                self.model, artifact, device=self.plan.run.device
            ),
        )

    def _unmeasured(self, label: str) -> list[Component[EvaluatorOffer[Any]]]:
        done = {(model, name) for model, name, _ in self.tell.report.measured}
        return [e for e in self.evaluators if (label, e.offer.name) not in done]

    def _problem(self, text: str) -> None:
        self.tell(Noticed(level="warning", source="checkpoints", message=text))


def job_of(
    plan: Plan,
    model: Path,
    parts: Parts,
    checkpoints: Checkpoints,
    emit: Callable[[Event], None],
) -> Job[Any]:
    """What the technique is given, in the folder of these checkpoints."""
    return Job(
        config=plan.technique.config,
        model=model,
        train=parts.train,
        heldout=parts.heldout,
        out=checkpoints.folder.parent,
        seed=plan.run.seed,
        device=plan.run.device,
        checkpoints=checkpoints,
        emit=emit,
        technique=plan.technique.offer.name,
        base_name=plan.found_model.public_name,
    )


def _verdict(report: Report, folder: RunFolder) -> JSON:
    """Judge by the first evaluator's metric, the first that was measured."""
    measured = list(report.measured.values())
    first = next((event.metric for event in measured if event.model == TUNED), None)
    return {} if first is None else judge(measured, first, folder.path)


def _finished(error: BaseException | None, verdict: JSON, seconds: float) -> RunFinished:
    ended = RunFinished(status="ok", exit_code=0, finished=now(), seconds=seconds, verdict=verdict)
    match error:
        case None:
            return ended
        case RunStopped():
            ended = replace(ended, status="stopped")
        case _:
            ended = replace(ended, status="failed")
    if isinstance(error, TunesmithError):
        said, hint = error.message, error.hint or ""
        return replace(ended, exit_code=error.exit_code, error=said, hint=hint)
    return replace(ended, exit_code=1, error=repr(error))


def _started(plan: Plan, folder: RunFolder, *, resumed: bool) -> RunStarted:
    return RunStarted(
        run=folder.path.name,
        name=plan.name,
        started=now(),
        plan=plan.to_json(),
        versions=versions(),
        plugins=used_plugins(plan),
        resumed=resumed,
    )


def used_plugins(plan: Plan) -> list[JSON]:
    """The plugins that this plan's components come from, with their versions."""
    components: list[Component[Any]] = [plan.data, plan.technique]
    components += [*plan.evaluators, *plan.reporters]
    plugins = {c.offered.plugin.full_name: c.offered.plugin for c in components}
    return [
        {"name": p.name, "distribution": p.distribution, "version": p.version}
        for p in plugins.values()
    ]


def _refuse_unfit(dataset: Dataset, plan: Plan) -> None:
    """The records must be of kinds that the technique learns from, and there must be some."""
    offer = plan.technique.offer
    for record in (*dataset.train, *(dataset.heldout or ())):
        if type(record) not in offer.accepts:
            kinds = ", ".join(sorted(kind.__name__ for kind in offer.accepts))
            raise DataError(
                record.source,
                f"a {type(record).__name__} record cannot be learned by {offer.name}",
                hint=f"it accepts {kinds}",
            )
    if not dataset.train or dataset.heldout == []:
        raise DataError("data", "no usable rows")


def _labels(records: Sequence[Record]) -> list[str] | None:
    """The answers, where they are few enough to be classes that both parts should have."""
    answers = [last_exchange(record)[1].strip() for record in records]
    return answers if len(set(answers)) <= min(100, len(answers) // 3) else None


def now() -> str:
    """The time, in UTC, as reports write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
