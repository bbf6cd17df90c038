"""The trainer, which turns a job into a committed artifact. All techniques share it.

:func:`train` holds the skeleton. A technique fills in its data and its objective as a
:class:`TrainingTask`. All ranks run these steps together::

    replace "auto" options          | resolve_parallel, resolve_auto, with task.grouping
    pick device and precision       | pick_device, resolve_precision
    tokenize rows in a thread       | task.tokenize
      while the weights are read    | load_model
    add adapters, or unfreeze all   | task.adapt, as options.adaptation asks
    choose the layout of rows       | choose_row_layout: packed, padded or one at a time
    build the objective             | task.prepare
    prepare validation              | task.objective_over, tunesmith_torch.training.validation
    choose the learning rate        | tunesmith_torch.training.rate_pilots
    build additions                 | tunesmith_torch.training.additions
    run the training loop           | tunesmith_torch.training.loop
    save and commit the artifact    | task.finalize, artifacts.save_artifact

The choice of trained weights (``options.adaptation``) is independent of the objective. All options
come from ``job.config``.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.events import JSON, Event, FindingReported, TrainingFinished, TrainingStarted
from tunesmith.phases import run_phase
from tunesmith.records import Record
from tunesmith.storage import write_atomic
from tunesmith_torch.data.saved_template import check_saved_template
from tunesmith_torch.data.templates import Template
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION, Grouping
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapter_stack import adapt_model, combine_adapters
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.dropout import no_dropout
from tunesmith_torch.models.initial_model import LINEAGE_FILE, InitialModel, base_folder
from tunesmith_torch.models.loading import (
    LoadedBase,
    config_context_length,
    enable_gradient_checkpointing,
    load_config,
    load_tokenizer,
    read_hidden_size,
)
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.models.self_check import RowLayout, choose_row_layout
from tunesmith_torch.models.tensor_changes import describe_unchanged, digest_trainable
from tunesmith_torch.optim import adamw
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.training import DEFAULT_BY, TrainingOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import Precision, pick_device
from tunesmith_torch.runtime.memory import peak_bytes, reset_peak
from tunesmith_torch.training.additions import NO_ADDITIONS, Additions
from tunesmith_torch.training.auto_batch import resolve_auto
from tunesmith_torch.training.auto_parallel import resolve_parallel
from tunesmith_torch.training.auto_precision import resolve_precision
from tunesmith_torch.training.loop import BatchCounts, Objective, RunLoop, run_training_loop
from tunesmith_torch.training.monitor import NO_MONITOR, TrainingMonitor
from tunesmith_torch.training.rate_pilots import RatePilots
from tunesmith_torch.training.row_losses import RowObjective
from tunesmith_torch.training.token_digest import Row, check_tokens
from tunesmith_torch.training.validation import (
    VALIDATION,
    ValidationMonitor,
    sample_validation_and_train,
)
from tunesmith_torch.training.validation_score import ValidationScore
from tunesmith_torch.untrusted.foreign_code import read_json_object

__all__ = ["PreparedTraining", "TrainingSession", "TrainingTask", "train"]

DataT = TypeVar("DataT")


@dataclass(frozen=True)
class TrainingSession:
    """A loaded and adapted model, and the job that trains it."""

    job: Job[Any]
    template: Template
    adapted: AdaptedModel
    initial_model: InitialModel | None
    """The model given in ``from``; None: training starts from the base model."""
    lineage: JSON
    """Facts that identify the initial model; empty if training starts from the base model."""
    folder: Path
    """Folder of the base weights: the base model, or a full model given in ``from``."""
    layout: RowLayout
    """Layout of rows in micro-batches."""
    limit: int
    """Maximum number of tokens in a row."""

    @property
    def options(self) -> Any:
        """The ``[technique]`` table, in the options class of the technique."""
        return self.job.config

    def report(self, text: str) -> None:
        """Emit a finding that the model is computed differently than the options ask for."""
        self.job.emit(FindingReported(level="info", source="model", message=text))


@dataclass(frozen=True)
class PreparedTraining:
    """The objective of a task, with settings for training and saving it."""

    objective: Objective
    adapted: AdaptedModel
    """The model in training: the session's model, or that model with an extra head."""
    totals: BatchCounts | None
    """Counts of all rows, for the first event; None if they are not known yet."""
    details: JSON = field(default_factory=dict)
    """Facts about the objective, for the first event."""
    monitor: TrainingMonitor = NO_MONITOR
    additions: Additions = NO_ADDITIONS
    run_loop: RunLoop = run_training_loop
    count_tokens: Callable[[], tuple[int, int] | None] | None = None
    """Returns, after training, the tokens computed and those with a loss; None if unknown.

    Without this function, the counts of the rows of all steps are added up.
    """
    affected_rows: Callable[[], dict[str, int]] = dict
    """Returns the number of rows that were skipped or changed, by cause."""
    write_extra: Callable[[Path], None] | None = None
    """Writes further files into the artifact's folder."""
    is_text_model: bool = True
    """False if the artifact does not generate text, such as a reward model."""


class TrainingTask(ABC, Generic[DataT]):
    """Base class of a technique's own part: how rows become tokens, and the objective over them."""

    can_compute_rows_alone: ClassVar[bool] = False
    """True if the objective can use the model's own forward pass, one row at a time."""
    has_row_losses: ClassVar[bool] = False
    """True if validation rows have a loss (:meth:`objective_over`) and the task has no monitor.

    Its options then have the ``validation`` table.
    """

    def grouping(self, options: Any, device: str) -> Grouping:
        """Return how records are grouped in a forward pass, to choose ``auto`` options."""
        return SINGLE_COMPLETION

    @abstractmethod
    def tokenize(self, job: Job[Any], template: Template, limit: int) -> DataT:
        """Return the training data with at most ``limit`` tokens per row; report skipped rows.

        The trainer calls this in a separate thread while it reads the weights.

        Raises:
            DataError: no rows can be trained on.
        """

    def longest_row(self, data: DataT, limit: int) -> int:
        """Return the number of tokens in the longest row, or an upper bound."""
        return limit

    def token_rows(self, data: DataT, template: Template) -> Iterable[Row]:
        """Return the token ids of the training data, for a digest.

        A resumed run raises an error if they differ from the ones at its start.
        """
        return ()

    def adapt(
        self, base: LoadedBase, precision: Precision, job: Job[Any], initial: InitialModel | None
    ) -> AdaptedModel:
        """Choose the weights to train and add adapters, as the options or an addition ask."""
        options: TrainingOptions = job.config
        for addition in job.additions:
            if addition.adapt is not None:
                with addition.blame():
                    adapted: AdaptedModel = addition.adapt(base, precision, job, initial)
                return adapted
        return adapt_model(
            base,
            precision,
            options.adaptation,
            initial_model=initial,
            seed=job.seed,
            fused_kernels=options.fused_kernels,
        )

    @abstractmethod
    def prepare(self, session: TrainingSession, data: DataT) -> PreparedTraining:
        """Return the objective over the data, with any other models that it needs."""

    def objective_over(
        self,
        session: TrainingSession,
        prepared: PreparedTraining,
        records: Sequence[Record],
        name: str,
    ) -> RowObjective | None:
        """Return the objective over other records, for evaluation; None if no record is usable.

        The trainer calls this before the first step, even when it resumes. ``name`` keeps the
        objective's files in the job's folder separate from those of the training data.
        """
        return None

    def finalize(self, session: TrainingSession) -> AdaptedModel:
        """Return the trained model as it is saved: one adapter, or all weights."""
        return combine_adapters(session.adapted)


def train(job: Job[Any], task: TrainingTask[Any]) -> Artifact:
    """Load, adapt and train a model, and commit the artifact; resume from the newest checkpoint.

    Raises:
        DataError: no records can be trained on.
        EnvironmentProblem: the model is not causal, or the technique does not support it.
        UsageError: the options cannot be used with this model.
        TrainingError: see :func:`tunesmith_torch.training.loop.run_training_loop`.
    """
    with distributed.run_on_all_ranks(job):
        # Replace "auto" first: everything below reads plain values.
        job = resolve_auto(resolve_parallel(job, task.grouping), task.grouping)
        with run_phase(job.emit, "loading and tokenizing"):
            session, data = _open_session(job, task)
        job = session.job
        started = time.perf_counter()
        with _dropout_of(session):
            with run_phase(job.emit, "preparing training"):
                prepared = task.prepare(session, data)
                objective = prepared.objective
                # The training loop builds the same order from the same values; nothing is shared.
                order = BatchOrder.from_options(len(objective), job.config, job.seed)
                prepared = _add_validation(task, session, prepared, order)
            pilots = RatePilots(job, prepared.adapted, objective, order, session.template)
            job, facts = pilots.resolve(prepared.monitor)
            session = replace(session, job=job)
            prepared = replace(prepared, details={**prepared.details, **facts})
            prepared = _add_additions(session, prepared, order.steps)
            job.emit(_training_started_event(session, prepared, order))
            before = digest_trainable(prepared.adapted.model)
            prepared.run_loop(
                job,
                prepared.adapted,
                objective,
                seed=job.seed,
                monitor=prepared.monitor,
                additions=prepared.additions,
            )
        seconds = time.perf_counter() - started
        for event in prepared.monitor.results():
            job.emit(event)
        unchanged = describe_unchanged(before, digest_trainable(prepared.adapted.model))
        if unchanged and order.steps > 1:  # the first step cannot change LoRA's A, because B is 0
            job.emit(FindingReported(level="warning", source="training", message=unchanged))
        with run_phase(job.emit, "saving the model"):
            artifact = artifacts.save_artifact(
                _card_job(session), task.finalize(session), session.template, prepared.write_extra
            )
        job.emit(_training_finished_event(session, prepared, order, artifact, seconds))
        return artifact


def _open_session(job: Job[Any], task: TrainingTask[DataT]) -> tuple[TrainingSession, DataT]:
    """Read the weights and tokenize the rows at the same time, and adapt the model."""
    options: TrainingOptions = job.config
    device = pick_device(job.device)
    adamw.check_available(options.optimizer.name, device)  # before loading, which takes minutes
    reset_peak(device)
    job.checkpoints.keep = options.checkpoints.keep
    initial = InitialModel.from_options(options, job.stage)
    lineage = distributed.rank_0_first(lambda: _check_lineage(job, initial))
    folder = base_folder(job.model, initial)
    precision = resolve_precision(job, device, read_hidden_size(folder))
    limit = min(options.max_length, config_context_length(load_config(folder)))
    tokenizer = load_tokenizer(folder)
    template = Template.from_options(tokenizer, options)
    findings: list[Event] = []
    with ThreadPoolExecutor(1) as executor:
        quiet_job = replace(job, emit=findings.append)  # only the main thread may emit events
        tokenizing = executor.submit(task.tokenize, quiet_job, template, limit)
        base = load_model(
            folder,
            device,
            precision,
            packing=options.packing,
            quantization=Quantization.from_options(options.adaptation.quantization),
            fused_kernels=options.fused_kernels,
            tokenizer=tokenizer,
        )
    for finding in findings:
        job.emit(finding)
    data = tokenizing.result()  # raises the error of the thread, if there was one
    distributed.rank_0_first(lambda: check_tokens(job, template, task.token_rows(data, template)))
    adapted = task.adapt(base, precision, job, initial)
    config = base.config if adapted.format == "model" else None
    distributed.rank_0_first(lambda: check_saved_template(template, job.train, config, job.out))
    # Tested on the adapted model, because the adapters take part in the forward pass too.
    layout = choose_row_layout(
        adapted, packing=options.packing, longest=task.longest_row(data, limit)
    )
    if layout.kind == "alone" and not task.can_compute_rows_alone:
        raise EnvironmentProblem(
            f"technique {job.technique}: this model must compute one row at a time, because "
            f"{layout.reason}",
            hint="choose another base model, or a technique that trains on demonstrations",
        )
    if layout.kind == "alone" and distributed.world_size() > 1 and options.parallel == "sharded":
        raise UsageError(
            'technique.parallel: "sharded" needs the same number of passes on all ranks, but this '
            f"model must compute one row at a time, because {layout.reason}",
            hint='set technique.parallel = "data"',
        )
    job = _apply_layout(job, layout)
    if options.gradient_checkpointing:
        enable_gradient_checkpointing(base.model)
    return TrainingSession(job, template, adapted, initial, lineage, folder, layout, limit), data


@contextmanager
def _dropout_of(session: TrainingSession) -> Iterator[None]:
    """Switch dropout off inside the block if the loss must not use it, and report the change."""
    if session.options.USES_DROPOUT:
        yield
        return
    with no_dropout(session.adapted.model) as probability:
        if probability:
            session.report(
                f"dropout is off (this model has up to {probability:g}): the loss compares "
                "log-probabilities that are computed without dropout"
            )
        yield


def _add_validation(
    task: TrainingTask[Any], session: TrainingSession, prepared: PreparedTraining, order: BatchOrder
) -> PreparedTraining:
    """Add a monitor of the validation loss, if there are validation rows."""
    job = session.job
    if not task.has_row_losses or job.config.validation.every == 0:
        return prepared
    validation_records, train_records = sample_validation_and_train(job)
    problem, validation, train = "no validation rows", None, None
    try:
        if validation_records:
            problem = "no usable validation rows"
            validation = task.objective_over(session, prepared, validation_records, "validation")
            train = task.objective_over(session, prepared, train_records, "train")
    except DataError as error:
        problem = error.message
    if validation is None or train is None:
        text = f"{problem}: skipping validation; the artifact is the last step"
        job.emit(FindingReported(level="info", source=VALIDATION, message=text))
        return prepared
    by = job.config.validation.by if prepared.is_text_model else DEFAULT_BY
    score = ValidationScore.create(job, by, validation_records, session.template, prepared.adapted)
    monitor = ValidationMonitor.create(job, prepared.adapted, order, validation, train, score)
    details = {
        "validation_rows": len(validation),
        "validation_evaluations": len(monitor.steps.steps),
    }
    return replace(prepared, monitor=monitor, details={**prepared.details, **details})


def _add_additions(
    session: TrainingSession, prepared: PreparedTraining, steps: int
) -> PreparedTraining:
    """Build the additions that run-file tables request."""
    additions = Additions.build(
        session.job,
        prepared.adapted,
        template=session.template,
        limit=session.limit,
        steps=steps,
        is_text_model=prepared.is_text_model,
    )
    return replace(prepared, additions=additions, details={**prepared.details, **additions.details})


def _apply_layout(job: Job[Any], layout: RowLayout) -> Job[Any]:
    """Return the job; if rows cannot be packed, turn ``packing`` off and report the reason."""
    if layout.kind == "packed" or not layout.reason:
        return job
    kind = {"padded": "rows are padded", "alone": "rows are computed one at a time"}[layout.kind]
    job.emit(
        FindingReported(
            level="info", source="technique.packing", message=f"{kind}: {layout.reason}"
        )
    )
    return replace(job, config=job.config.model_copy(update={"packing": False}))


def _check_lineage(job: Job[Any], initial: InitialModel | None) -> JSON:
    """Return the facts that identify the initial model, and store them in the job's folder.

    Raises:
        UsageError: before the interruption, training started from a different initial model.
    """
    lineage = initial.lineage() if initial is not None else {}
    path = job.out / LINEAGE_FILE
    if initial is not None and not path.is_file():
        write_atomic(path, json.dumps(lineage, indent=2) + "\n")
    stored: JSON = read_json_object(path) if path.is_file() else {}
    if stored.get("from_sha256") != lineage.get("from_sha256"):
        raise UsageError(
            f"technique.from: {lineage.get('from')} is not the model that training started from, "
            f"{stored.get('from')}: its files have changed",
            hint="restore the files, or start a new run",
        )
    return lineage


def _card_job(session: TrainingSession) -> Job[Any]:
    """Return the job for the artifact's model card.

    The base's name is dropped if training started from a full model instead of the run's base.
    """
    full_model = session.initial_model is not None and session.initial_model.format == "model"
    return replace(session.job, base_name="") if full_model else session.job


def _training_started_event(
    session: TrainingSession, prepared: PreparedTraining, order: BatchOrder
) -> TrainingStarted:
    job, adapted, options = session.job, prepared.adapted, session.options
    newest = job.checkpoints.newest()
    return TrainingStarted(
        stage=job.stage,
        technique=job.technique,
        steps=order.steps,
        epochs=options.epochs,
        rows=len(prepared.objective),
        tokens=prepared.totals.tokens if prepared.totals else None,
        trained_tokens=prepared.totals.trained_tokens if prepared.totals else None,
        trainable_parameters=adapted.num_trainable_parameters,
        parameters=adapted.num_parameters,
        device=str(adapted.base.model.device),
        precision=f"{adapted.precision.name}: {adapted.precision.reason}",
        details={
            **adapted.details,
            **session.lineage,
            **prepared.details,
            "template_sha256": session.template.sha256,
            "batch_size": options.batch_size,
            "micro_batch_tokens": options.micro_batch_tokens,
            "layout": session.layout.kind,
            **_describe_processes(options),
        },
        first_step=newest.step if newest else 0,
    )


def _describe_processes(options: Any) -> JSON:
    count = distributed.world_size()
    return {"processes": count, "parallel": options.parallel} if count > 1 else {}


def _training_finished_event(
    session: TrainingSession,
    prepared: PreparedTraining,
    order: BatchOrder,
    artifact: Artifact,
    seconds: float,
) -> TrainingFinished:
    steps = prepared.additions.count_steps(prepared.monitor.count_steps(order.steps))
    tokens, trained_tokens = _count_tokens(prepared, order, steps)
    return TrainingFinished(
        stage=session.job.stage,
        technique=session.job.technique,
        steps=steps,
        tokens=tokens,
        trained_tokens=trained_tokens,
        seconds=seconds,
        peak_memory_bytes=peak_bytes(session.adapted.base.model.device),
        artifact=str(artifact.path.relative_to(session.job.out)),
        format=artifact.format,
        is_text_model=prepared.is_text_model,
        affected_rows=prepared.affected_rows(),
    )


def _count_tokens(
    prepared: PreparedTraining, order: BatchOrder, steps: int
) -> tuple[int | None, int | None]:
    """Return the number of tokens in all steps, and of those with a loss; None if unknown."""
    if prepared.count_tokens is not None:
        return prepared.count_tokens() or (None, None)
    counts = [prepared.objective.counts(rows) for _, rows in islice(order.batches(), steps)]
    return sum(count.tokens for count in counts), sum(count.trained_tokens for count in counts)
