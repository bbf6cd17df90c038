"""Run the stages of reinforcement learning from human feedback in order.

Each of the three stages runs as a separate job in a subfolder of the run::

    supervised/   demonstrations    -> fine-tuned model, the start of both other stages
    reward/       preference pairs  -> reward model, which must pass a check (reward_gate.py)
    policy/       prompts           -> policy, trained on rewards for what it samples

A finished stage leaves ``stage.json`` next to its artifact, and a resumed run does not train it
again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError, IntegrityError
from tunesmith.events import Event, GateChecked, TrainingFinished
from tunesmith.records import Chat, Completion, Preference, Record
from tunesmith.storage import is_inside, verify_folder, write_atomic
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_plugins.techniques.rlhf.reward_gate import (
    RewardModelEvaluation,
    decide_gate,
    enforce_gate,
)
from tunesmith_plugins.techniques.rlhf.reward_task import RewardTask
from tunesmith_torch.models.artifacts import detect_artifact_format
from tunesmith_torch.models.initial_model import InitialModel, find_adapter_base
from tunesmith_torch.models.loading import pick_model_precision
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.rlhf.policy_task import PolicyTask
from tunesmith_torch.rlhf.reward_model import RewardModel
from tunesmith_torch.rlhf.reward_source import RewardModelSource, check_reward_functions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import pick_device
from tunesmith_torch.runtime.malloc import release_memory
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import TrainingTask, train
from tunesmith_torch.untrusted.foreign_code import read_json_object

_E = TypeVar("_E", bound=Event)

DONE_FILE = "stage.json"
"""File with a finished stage's ``TrainingFinished`` event."""
GATE_FILE = "gate.json"
"""File with the result of the reward model's check, a ``GateChecked`` event."""


def train_stages(job: Job[Any]) -> Artifact:
    """Train every stage that is not skipped, and return the artifact of the last text model.

    Raises:
        DataError: a stage has no records to train on.
        GateError: the reward model failed its check, so the policy was not trained.
        UsageError, TrainingError: a reward function cannot be imported or does not return a number.
    """
    with distributed.run_on_all_ranks(job):
        options: RlhfOptions = job.config
        data = StageData.split(job)
        if not options.reward.skip and not data.pairs:
            raise DataError(
                data.train[0].source,
                "the reward model needs preference pairs, but the data contains none",
                hint="add rows with `chosen` and `rejected`, or set technique.reward.skip = true",
            )
        if not options.policy.skip:
            distributed.broadcast_from_rank_0(
                lambda: check_reward_functions(options.policy, data.train[0], "policy")
            )
        stages = Stages(job, data)
        fine_tuned = stages.run_supervised()
        reward_source = stages.run_reward(fine_tuned)
        if not options.policy.skip:
            stages.run_policy(fine_tuned, reward_source)
        return stages.finish()


@dataclass(frozen=True)
class StageData:
    """The records of a run, by stage. Validation records are never trained on."""

    train: Sequence[Record]
    demonstrations: Sequence[Record]
    """Conversations and completions, or the chosen completions of pairs if there are no other
    rows."""
    pairs: Sequence[Preference]
    validation: Sequence[Record]
    validation_demonstrations: Sequence[Record]
    validation_pairs: Sequence[Preference]

    @classmethod
    def split(cls, job: Job[Any]) -> StageData:
        """Split a job's records by the stage that trains on their kind.

        Raises:
            DataError: a record is of a kind that no stage uses, or the training data is empty.
        """
        for record in (*job.train, *job.validation):
            if not isinstance(record, (Chat, Completion, Preference)):
                kind = type(record).__name__
                raise DataError(
                    record.source,
                    (f"rlhf needs conversations or preference pairs, but this record is a {kind}"),
                )
        if not job.train:
            raise DataError("data", "the data contains no rows to train on")
        pairs = [r for r in job.train if isinstance(r, Preference)]
        demonstrations = [r for r in job.train if not isinstance(r, Preference)]
        validation_pairs = [r for r in job.validation if isinstance(r, Preference)]
        validation_demonstrations: Sequence[Record] = validation_pairs
        if demonstrations:
            validation_demonstrations = [r for r in job.validation if not isinstance(r, Preference)]
        return cls(
            job.train,
            demonstrations or pairs,
            pairs,
            job.validation,
            validation_demonstrations,
            validation_pairs,
        )


@dataclass
class Stages:
    """The stages of a run, with the events of the finished stages."""

    job: Job[Any]
    data: StageData
    finished: list[TrainingFinished] = field(default_factory=list)

    @property
    def options(self) -> RlhfOptions:
        options: RlhfOptions = self.job.config
        return options

    def run_supervised(self) -> InitialModel | None:
        """Train the stage unless skipped. Return its model, or None if there is only the base."""
        options = self.options.supervised
        if options.skip:
            return InitialModel.from_options(options, "supervised")
        artifact = self._run_stage(
            "supervised",
            options,
            self.data.demonstrations,
            SupervisedTask(),
            validation=self.data.validation_demonstrations,
        )
        return InitialModel(artifact.path, artifact.format)

    def run_reward(self, fine_tuned: InitialModel | None) -> RewardModelSource | None:
        """Train the stage unless skipped. Return the checked model, or None if it is not needed."""
        options = self.options.reward
        quantization = Quantization.from_options(options.adaptation.quantization)
        if options.skip:
            initial = InitialModel.from_options(options, "reward")
            if initial is None:
                return None
            path = initial.path
        else:
            options = _with_initial_model(options, fine_tuned)
            pairs, validation_pairs = self.data.pairs, self.data.validation_pairs
            path = self._run_stage(
                "reward", options, pairs, RewardTask(), validation=validation_pairs
            ).path
        reward_source = RewardModelSource(path, quantization)
        if not self.options.policy.skip and not self.options.policy.needs_reward_model:
            return None
        enforce_gate(distributed.rank_0_first(lambda: self._load_or_run_gate(reward_source)))
        return reward_source

    def run_policy(
        self, fine_tuned: InitialModel | None, reward_source: RewardModelSource | None
    ) -> None:
        """Train the policy, starting from the model in ``from`` or from the fine-tuned model."""
        options = _with_initial_model(self.options.policy, fine_tuned)
        task = PolicyTask(reward_source)
        self._run_stage("policy", options, self.data.train, task, validation=self.data.validation)

    def finish(self) -> Artifact:
        """Emit the totals of all stages, and return the artifact of the last one.

        The reward model is the artifact only if no stage trained a text model.
        """
        last = next((s for s in reversed(self.finished) if s.is_text_model), self.finished[-1])
        total = TrainingFinished(
            technique=self.job.technique,
            steps=sum(stage.steps for stage in self.finished),
            tokens=_sum_known(stage.tokens for stage in self.finished),
            trained_tokens=_sum_known(stage.trained_tokens for stage in self.finished),
            seconds=sum(stage.seconds for stage in self.finished),
            peak_memory_bytes=max(stage.peak_memory_bytes for stage in self.finished),
            artifact=last.artifact,
            format=last.format,
            is_text_model=last.is_text_model,
        )
        self.job.emit(total)
        return Artifact(path=self.job.out / last.artifact, format=last.format)

    # ----------------------------------------------------------------- one stage

    def _run_stage(
        self,
        name: str,
        options: TrainingOptions,
        train_records: Sequence[Record],
        task: TrainingTask[Any],
        *,
        validation: Sequence[Record],
    ) -> Artifact:
        """Train a stage, unless an earlier process of this run has already finished it."""
        stage = self.job.for_stage(name, options, train=train_records, validation=validation)
        finished = distributed.rank_0_first(lambda: load_finished(stage.out))
        if finished is None:
            finished_events: list[TrainingFinished] = []

            def emit(event: Event) -> None:
                if isinstance(event, TrainingFinished):
                    finished_events.append(event)
                stage.emit(event)

            stage.out.mkdir(exist_ok=True)
            release_memory()
            train(replace(stage, emit=emit), task)
            (finished,) = finished_events
            if distributed.is_rank_0():
                write_atomic(stage.out / DONE_FILE, json.dumps(asdict(finished), indent=2) + "\n")
        self.finished.append(replace(finished, artifact=f"{name}/{finished.artifact}"))
        return Artifact(path=stage.out / finished.artifact, format=finished.format)

    def _load_or_run_gate(self, source: RewardModelSource) -> GateChecked:
        """Return the stored result of the check, or load and evaluate the reward model."""
        stage = self.job.for_stage("reward", self.options.reward)
        path, accept_weak = stage.out / GATE_FILE, self.options.reward.gate.accept_weak
        if path.is_file():
            gate = _read_event(GateChecked, path)
            if gate.accepted == accept_weak:
                return gate
            gate = replace(gate, accepted=accept_weak)
            stage.emit(gate)
            return gate
        stage.out.mkdir(exist_ok=True)
        started = time.perf_counter()
        evaluation = self._evaluate_reward_model(source)
        report = evaluation.report if evaluation else None
        gate = decide_gate(report, accept_weak=accept_weak)
        seconds = time.perf_counter() - started
        for event in evaluation.events(stage, gate, seconds) if evaluation else [gate]:
            stage.emit(event)
        write_atomic(path, json.dumps(asdict(gate), indent=2) + "\n")
        return gate

    def _evaluate_reward_model(self, source: RewardModelSource) -> RewardModelEvaluation | None:
        pairs = self.data.validation_pairs
        if not pairs:
            return None
        release_memory()
        options = self.options.reward
        device = pick_device(self.job.device)
        base = _base_folder_of(source.path, self.job.model)
        model = RewardModel.load(
            base,
            source.path,
            device,
            pick_model_precision(base, device, options.precision),
            packing=options.packing,
            quantization=source.quantization,
        )
        return RewardModelEvaluation.run(model, pairs)


def _sum_known(counts: Iterable[int | None]) -> int | None:
    """Return the sum, or None if one of the counts is unknown."""
    known = list(counts)
    return None if None in known else sum(filter(None, known))


def _base_folder_of(artifact: Path, model: Path) -> Path:
    return (
        find_adapter_base(artifact, model)
        if detect_artifact_format(artifact) == "adapter"
        else artifact
    )


def _with_initial_model(options: Any, fine_tuned: InitialModel | None) -> Any:
    """Return options that start from the fine-tuned model, unless their ``from`` is set."""
    if options.initial_model is not None or fine_tuned is None:
        return options
    return options.model_copy(update={"initial_model": str(fine_tuned.path)})


def load_finished(folder: Path) -> TrainingFinished | None:
    """Return a finished stage's event, or None if it is unfinished or its artifact is damaged.

    Raises:
        IntegrityError: the stage did not write this file, or the file names an artifact outside
            the run folder.
    """
    path = folder / DONE_FILE
    if not path.is_file():
        return None
    finished = _read_event(TrainingFinished, path)
    if not is_inside(finished.artifact):
        raise IntegrityError(
            f"{path}: refers to an artifact outside the run folder: {finished.artifact!r:.80}",
            hint="restore the run folder from a backup, or start a new run",
        )
    return None if verify_folder(folder / finished.artifact) else finished


def _read_event(kind: type[_E], path: Path) -> _E:
    """Return the event that a stage stored in a file.

    Raises:
        IntegrityError: the file does not contain an event of this kind.
    """
    try:
        return kind(**read_json_object(path))
    except TypeError as error:
        raise IntegrityError(
            f"{path}: this file was not written by the stage: {error}",
            hint="restore the run folder from a backup, or start a new run",
        ) from None
