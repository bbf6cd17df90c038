"""The trainings that the checks of a technique share, with a small model and eight examples."""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tunesmith.additions import Addition
from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.errors import DataError
from tunesmith.events import Event, StepFinished
from tunesmith.records import Preference, Prompt, Record, exchanges, to_answer
from tunesmith.storage import Checkpoints
from tunesmith.testing.checks import Subject, require
from tunesmith.testing.examples import EXAMPLES_BY_KIND
from tunesmith.testing.techniques.written_files import folder_hash, record_writes

SEED = 7


@dataclass
class TrainingRun:
    """One training on eight examples, with its events, artifact and written files."""

    out: Path
    events: list[Event] = field(default_factory=list)
    artifact: Artifact | None = None
    written: list[str] = field(default_factory=list)
    """Files outside ``out`` that were opened for writing."""

    def steps(self, stage: str | None = None) -> list[StepFinished]:
        steps = [event for event in self.events if isinstance(event, StepFinished)]
        return [event for event in steps if stage is None or event.stage == stage]

    def losses(self) -> list[float]:
        return [event.loss for event in self.steps()]

    def stages(self) -> list[str]:
        """Return the stages that took steps, in order; ``[""]`` without stages."""
        return list(dict.fromkeys(event.stage for event in self.steps()))


@dataclass
class TrainingSetup:
    """The temporary folder, the model and the records used to train one technique."""

    subject: Subject
    model: Path
    folder: Path
    """Temporary folder, deleted when the process ends."""
    kinds: list[type[Record]]
    """Kinds of records that the technique accepts, the simplest first."""
    base_hash: str

    @property
    def examples(self) -> tuple[Record, ...]:
        """Eight records of the simplest kind that the technique can train on."""
        return EXAMPLES_BY_KIND[self.kinds[0]]

    @classmethod
    def of(cls, subject: Subject) -> TrainingSetup:
        """Return the offer's setup, which is created only once."""
        if "setup" not in subject.cache:
            model = subject.samples.model_folder()
            kinds = [kind for kind in EXAMPLES_BY_KIND if kind in subject.offer.accepts]
            require(bool(kinds), "the kit has no examples of the kinds that are accepted")
            folder = Path(tempfile.mkdtemp(prefix="tunesmith-kit-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            subject.cache["setup"] = cls(subject, model, folder, kinds, folder_hash(model))
        return cast(TrainingSetup, subject.cache["setup"])

    def job(
        self,
        training: TrainingRun,
        emit: Callable[[Event], None],
        *,
        seed: int = SEED,
        train: Sequence[Record] = (),
        changes: Mapping[str, Any] | None = None,
        additions: Sequence[Addition] = (),
    ) -> Job[Any]:
        training.out.mkdir(exist_ok=True)
        options = self.subject.options()
        return Job(
            config=options.model_copy(update=changes or {}),
            model=self.model,
            train=train or self.examples,
            validation=self.examples[:2],
            out=training.out,
            seed=seed,
            device="cpu",
            checkpoints=Checkpoints(training.out / "checkpoints"),
            emit=emit,
            technique=self.subject.offer.name,
            additions=additions,
        )

    def train(self, name: str, **differences: Any) -> TrainingRun:
        """Train without interruption, once per name; ``differences`` replace fields of the job."""
        if name not in self.subject.cache:
            training = TrainingRun(self.folder / name)
            with record_writes(training.out, training.written):
                self._train(training, differences)
            self.subject.cache[name] = training
        return cast(TrainingRun, self.subject.cache[name])

    def _train(self, training: TrainingRun, differences: Mapping[str, Any]) -> None:
        """Train; if the records of one kind are not enough, retry with the next kind."""
        try:
            job = self.job(training, training.events.append, **differences)
            training.artifact = self.subject.build().train(job)
        except DataError:
            if len(self.kinds) == 1:
                raise
            del self.kinds[0]
            shutil.rmtree(training.out, ignore_errors=True)
            training.events.clear()
            self._train(training, differences)

    def open(self, artifact: Path | None) -> TextModel:
        """Open the model with a new instance of the technique."""
        model: TextModel = self.subject.build().open(self.model, artifact, device="cpu")
        return model

    def scores(self, artifact: Path | None) -> list[float]:
        """Return the log-probabilities of the completions, in nats, one for each token."""
        pairs = [exchange for record in self.examples for exchange in exchanges(record)]
        scored = self.open(artifact).score([p for p, _ in pairs], [to_answer(c) for _, c in pairs])
        return [value for tokens in scored for value in tokens.logprobs]

    def margin(self, artifact: Path | None) -> float | None:
        """Return the mean log-probability of chosen minus rejected, in nats.

        The result is None if there are no pairs.
        """
        pairs = [record for record in self.examples if isinstance(record, Preference)]
        if not pairs:
            return None
        prompts: list[Prompt] = [pair.prompt for pair in pairs]
        model = self.open(artifact)
        chosen = model.score(prompts, [pair.chosen for pair in pairs])
        rejected = model.score(prompts, [pair.rejected for pair in pairs])
        total = sum(math.fsum(s.logprobs) for s in chosen) - sum(
            math.fsum(s.logprobs) for s in rejected
        )
        return total / len(pairs)


def train_once(subject: Subject) -> tuple[TrainingSetup, TrainingRun, Path]:
    """Return the setup, the shared training, and the path of its artifact."""
    setup = TrainingSetup.of(subject)
    training = setup.train("first")
    artifact = training.artifact
    require(
        isinstance(artifact, Artifact),
        f"train returns a value of type {type(artifact).__name__}, not an Artifact",
    )
    assert artifact is not None
    return setup, training, artifact.path
