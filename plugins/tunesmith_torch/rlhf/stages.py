"""Reinforcement learning from human feedback: demonstrations, a reward model, a policy.

Three stages in a row, each a job of its own below the run folder: ``supervised/``, ``reward/`` and
``policy/``. A stage that has ended leaves ``stage.json`` beside its artifact and is not trained
again when the run is resumed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError
from tunesmith.events import Event, Gated, Trained
from tunesmith.records import Chat, Completion, Preference, Record
from tunesmith.storage import verify, write_atomic
from tunesmith_torch.models.adapter_stack import (
    Start,
    adapt_policy,
    base_folder,
    base_of_adapter,
    one_adapter,
    quantization_of,
)
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.models.artifacts import artifact_format
from tunesmith_torch.models.loading import Base
from tunesmith_torch.options.preference import PolicyOptions
from tunesmith_torch.options.rlhf import RlhfOptions, SupervisedStage
from tunesmith_torch.options.trl import refuse_vllm
from tunesmith_torch.rlhf.policy_stage import Judge, train_policy, try_functions
from tunesmith_torch.rlhf.reward_gate import Judged, hold, verdict
from tunesmith_torch.rlhf.reward_model import RewardModel, train_reward
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import Precision, pick_device, pick_precision
from tunesmith_torch.runtime.malloc import let_go
from tunesmith_torch.training.sft import supervise

DONE = "stage.json"
GATED = "gate.json"


@distributed.together
def train_stages(job: Job[Any]) -> Artifact:
    """Train every stage that is not skipped; the last one's artifact is the run's.

    Raises:
        DataError: a stage has nothing to learn from.
        GateError: the reward model failed its gate; the policy was not trained.
        UsageError, TrainingError: a reward function cannot be read, or gives no number.
        UsageError: the policy's answers would be drawn by vLLM, and there is no GPU for it.
    """
    options: RlhfOptions = job.config
    refuse_vllm(options.policy, pick_device(job.device).type)
    data = Data.of(job)
    if not options.reward.skip and not data.pairs:
        raise DataError(
            data.train[0].source,
            "the reward model learns from pairs of answers, and there are none",
            hint="bring preferences, or set technique.reward.skip = true",
        )
    if not options.policy.skip:
        distributed.from_rank_0(lambda: try_functions(options.policy, data.train[0]))
    stages = Stages(job, data)
    fine_tuned = stages.supervised()
    judge = stages.reward(fine_tuned)
    if not options.policy.skip:
        stages.policy(fine_tuned, judge)
    return stages.ending()


@dataclass(frozen=True)
class Data:
    """The records by what they are good for. Held-out ones teach no stage anything."""

    train: Sequence[Record]
    demonstrations: Sequence[Record]
    """Where there are none, the chosen answers serve."""
    pairs: Sequence[Preference]
    heldout: Sequence[Record]
    heldout_pairs: Sequence[Preference]

    @classmethod
    def of(cls, job: Job[Any]) -> Data:
        """Sort a job's records.

        Raises:
            DataError: a record is of another kind, or there is none.
        """
        for record in (*job.train, *job.heldout):
            if not isinstance(record, (Chat, Completion, Preference)):
                kind = type(record).__name__
                raise DataError(record.source, f"a conversation or a pair is needed, got a {kind}")
        if not job.train:
            raise DataError("data", "no rows to learn from")
        pairs = [r for r in job.train if isinstance(r, Preference)]
        shown = [r for r in job.train if not isinstance(r, Preference)]
        heldout_pairs = [r for r in job.heldout if isinstance(r, Preference)]
        return cls(job.train, shown or pairs, pairs, job.heldout, heldout_pairs)


@dataclass
class Stages:
    """The stages of one run, and what came of them."""

    job: Job[Any]
    data: Data
    trained: list[Trained] = field(default_factory=list)

    @property
    def options(self) -> RlhfOptions:
        options: RlhfOptions = self.job.config
        return options

    def supervised(self) -> Start | None:
        """The policy that the others begin with; None: the base model."""
        options = self.options.supervised
        if options.skip:
            return Start.find(options.start, "supervised") if options.start is not None else None

        def train(stage: Job[Any]) -> Artifact:
            return _supervise(stage, options)

        artifact = self._stage("supervised", options, self.data.demonstrations, train)
        return Start(artifact.path, artifact.format)

    def reward(self, fine_tuned: Start | None) -> Judge | None:
        """A reward model that has passed its gate; None: there is none."""
        options = self.options.reward
        stored = quantization_of(options)
        if options.skip and options.start is None:
            return None
        if options.skip and options.start is not None:
            judge = Judge(Start.find(options.start, "reward").path, stored)
        else:
            options = _started(options, fine_tuned)
            artifact = self._stage("reward", options, self.data.pairs, train_reward)
            judge = Judge(artifact.path, stored)
        if not self.options.policy.skip and not self.options.policy.needs_model:
            return None
        hold(distributed.in_turn(lambda: self._gate(judge)))
        return judge

    def policy(self, fine_tuned: Start | None, judge: Judge | None) -> None:
        """Train the policy from the fine-tuned model, or from what ``from`` names."""
        options = self.options.policy
        start = Start.find(options.start, "policy") if options.start is not None else fine_tuned

        def train(stage: Job[Any]) -> Artifact:
            return train_policy(stage, start, judge)

        self._stage("policy", options, self.data.train, train)

    def ending(self) -> Artifact:
        """Tell the whole: its artifact is that of the last stage, if possible one that answers."""
        last = next((s for s in reversed(self.trained) if s.answers), self.trained[-1])
        whole = Trained(
            technique=self.job.technique,
            steps=sum(stage.steps for stage in self.trained),
            tokens=sum(stage.tokens for stage in self.trained),
            trained_tokens=sum(stage.trained_tokens for stage in self.trained),
            seconds=sum(stage.seconds for stage in self.trained),
            peak_memory_bytes=max(stage.peak_memory_bytes for stage in self.trained),
            artifact=last.artifact,
            format=last.format,
            answers=last.answers,
        )
        self.job.emit(whole)
        return Artifact(path=self.job.out / last.artifact, format=last.format)

    # ----------------------------------------------------------------- one stage

    def _stage(
        self,
        name: str,
        options: PolicyOptions,
        train: Sequence[Record],
        work: Callable[[Job[Any]], Artifact],
    ) -> Artifact:
        """Carry out a stage, unless an earlier process of this run has."""
        stage = self.job.stage(name, options, train=train, heldout=self.data.heldout)
        done = distributed.in_turn(lambda: _done(stage.out))
        if done is None:
            told: list[Trained] = []

            def emit(event: Event) -> None:
                if isinstance(event, Trained):
                    told.append(event)
                stage.emit(event)

            stage.out.mkdir(exist_ok=True)
            let_go()
            work(replace(stage, emit=emit))
            (done,) = told
            if distributed.is_first():
                write_atomic(stage.out / DONE, json.dumps(asdict(done), indent=2) + "\n")
        self.trained.append(replace(done, artifact=f"{name}/{done.artifact}"))
        return Artifact(path=stage.out / done.artifact, format=done.format)

    def _gate(self, judge: Judge) -> Gated:
        """What the gate says of the reward model as it lies on disk; asked once."""
        stage = self.job.stage("reward", self.options.reward)
        path = stage.out / GATED
        if path.is_file():
            gate = Gated(**json.loads(path.read_text(encoding="utf-8")))
            if gate.accepted == self.options.reward.accept_weak:
                return gate
            gate = replace(gate, accepted=self.options.reward.accept_weak)
            stage.emit(gate)
            return gate
        stage.out.mkdir(exist_ok=True)
        began = time.perf_counter()
        judged = self._judged(judge)
        gate = verdict(judged.report if judged else None, self.options.reward)
        seconds = time.perf_counter() - began
        for event in judged.events(stage, gate, seconds) if judged else [gate]:
            stage.emit(event)
        write_atomic(path, json.dumps(asdict(gate), indent=2) + "\n")
        return gate

    def _judged(self, judge: Judge) -> Judged | None:
        pairs = self.data.heldout_pairs
        if not pairs:
            return None
        let_go()
        options = self.options.reward
        device = pick_device(self.job.device)
        model = RewardModel.load(
            _base_under(judge.path, self.job.model),
            judge.path,
            device,
            pick_precision(device, options.precision),
            packing=options.packing,
            quantization=judge.quantization,
        )
        return Judged.of(model, pairs)


def _base_under(artifact: Path, model: Path) -> Path:
    return base_of_adapter(artifact, model) if artifact_format(artifact) == "adapter" else artifact


def _started(options: Any, fine_tuned: Start | None) -> Any:
    """The options with the stage before as the start, where they name none."""
    if options.start is not None or fine_tuned is None:
        return options
    return options.model_copy(update={"start": str(fine_tuned.path)})


def _supervise(job: Job[Any], options: SupervisedStage) -> Artifact:
    start = Start.find(options.start, "supervised") if options.start is not None else None

    def adapt(base: Base, precision: Precision) -> Adapted:
        return adapt_policy(
            base, precision, options, weights=options.weights, start=start, seed=job.seed
        )

    whole = start is not None and start.format == "model"
    base_name = "" if whole else job.base_name
    job = replace(job, model=base_folder(job.model, start), base_name=base_name)
    return supervise(job, adapt, quantization_of(options), one_adapter)


def _done(folder: Path) -> Trained | None:
    """What a finished stage told, if its artifact is what it was."""
    path = folder / DONE
    if not path.is_file():
        return None
    told = Trained(**json.loads(path.read_text(encoding="utf-8")))
    return None if verify(folder / told.artifact) else told
