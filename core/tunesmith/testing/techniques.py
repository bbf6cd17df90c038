"""Checks of techniques: a small model is trained on eight examples, three times in all.

Most checks share the first training. The second has the same seed; the third is stopped in the
middle and continued.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.errors import DataError, RunStopped, TunesmithError
from tunesmith.events import Event, Notice, StepFinished, TrainingFinished
from tunesmith.records import Preference, Prompt, Record, exchanges, to_answer
from tunesmith.storage import Checkpoints
from tunesmith.testing.checks import NotApplicable, Subject, check, require
from tunesmith.testing.everyone import global_state, library_attributes, require_unpatched
from tunesmith.testing.examples import EXAMPLES_BY_KIND

SEED = 7
MIN_LOSS_DECREASE = 0.1
"""Nats per token by which the loss must decrease when eight examples are memorized."""
SCORE_TOLERANCE = 1e-5
"""Nats by which equal scores may differ."""


@dataclass
class TrainingRun:
    """A training on eight examples, with its events, artifact and written files."""

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
        """Return the stages that took steps, in order; ``""`` without stages."""
        return list(dict.fromkeys(event.stage for event in self.steps()))


@dataclass
class TrainingSetup:
    """The temporary folder, model and records for the trainings of one offer."""

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
        """Return the setup of the offer, created once."""
        if "setup" not in subject.cache:
            model = subject.samples.model_folder()
            kinds = [kind for kind in EXAMPLES_BY_KIND if kind in subject.offer.accepts]
            require(bool(kinds), "it accepts no kind of records that the kit has examples of")
            folder = Path(tempfile.mkdtemp(prefix="tunesmith-kit-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            subject.cache["setup"] = cls(subject, model, folder, kinds, folder_hash(model))
        return cast(TrainingSetup, subject.cache["setup"])

    def job(self, training: TrainingRun, emit: Callable[[Event], None]) -> Job[Any]:
        training.out.mkdir(exist_ok=True)
        return Job(
            config=self.subject.options(),
            model=self.model,
            train=self.examples,
            dev=self.examples[:2],
            out=training.out,
            seed=SEED,
            device="cpu",
            checkpoints=Checkpoints(training.out / "checkpoints"),
            emit=emit,
            technique=self.subject.offer.name,
        )

    def train(self, name: str) -> TrainingRun:
        """Train without interruption, once for each name."""
        if name not in self.subject.cache:
            training = TrainingRun(self.folder / name)
            with record_writes(training.out, training.written):
                self._train(training)
            self.subject.cache[name] = training
        return cast(TrainingRun, self.subject.cache[name])

    def _train(self, training: TrainingRun) -> None:
        """Train; if records of one kind are not enough, with those of the next kind."""
        try:
            job = self.job(training, training.events.append)
            training.artifact = self.subject.build().train(job)
        except DataError:
            if len(self.kinds) == 1:
                raise
            del self.kinds[0]
            shutil.rmtree(training.out, ignore_errors=True)
            training.events.clear()
            self._train(training)

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
        """Return the mean log-probability of chosen minus rejected, in nats; None without pairs."""
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
    """Return the setup, the training that checks share, and the path of its artifact."""
    setup = TrainingSetup.of(subject)
    training = setup.train("first")
    artifact = training.artifact
    require(
        isinstance(artifact, Artifact), f"train returns {type(artifact).__name__}, not an Artifact"
    )
    assert artifact is not None
    return setup, training, artifact.path


@check("technique")
def ends_with_training_finished(subject: Subject) -> None:
    """The last event is the only ``TrainingFinished``, and its artifact exists below ``out``."""
    _, training, path = train_once(subject)
    last = training.events[-1] if training.events else None
    require(
        isinstance(last, TrainingFinished), f"the last event is {last!r:.80}, not TrainingFinished"
    )
    final = [e for e in training.events if isinstance(e, TrainingFinished) and not e.stage]
    require(len(final) == 1, f"{len(final)} events TrainingFinished without a stage, not one")
    require(path.is_dir() and any(path.iterdir()), f"no artifact at {path}")
    require(
        training.out / final[0].artifact == path,
        f"TrainingFinished names {final[0].artifact!r}, the artifact is {path}",
    )


@check("technique")
def steps_count_up(subject: Subject) -> None:
    """Every step is reported, from 1 to the announced number, in every stage."""
    _, training, _ = train_once(subject)
    require(bool(training.steps()), "no step is reported")
    for stage in training.stages():
        numbers = [event.step for event in training.steps(stage)]
        announced = training.steps(stage)[-1].steps
        require(
            numbers == list(range(1, announced + 1)),
            f"steps {numbers[:5]}...{numbers[-2:]} of {announced} announced",
        )


@check("technique")
def losses_are_finite(subject: Subject) -> None:
    """Losses, gradient norms, learning rates and other metrics are finite."""
    _, training, _ = train_once(subject)
    for event in training.steps():
        values = (event.loss, event.gradient_norm, event.learning_rate, *event.metrics.values())
        require(all(map(math.isfinite, values)), f"step {event.step} reports {values}")


@check("technique")
def learns_eight_examples(subject: Subject) -> None:
    """The trained model, loaded from disk, has a lower loss on the examples than the base model.

    With pairs, it prefers the chosen completion more than the base model does.
    """
    setup, _, path = train_once(subject)
    before, after = setup.margin(None), setup.margin(path)
    if before is not None and after is not None:
        text = f"chosen over rejected {before:.4f} nats before and {after:.4f} after"
        require(after >= before + MIN_LOSS_DECREASE, f"{text}; expected {MIN_LOSS_DECREASE} more")
        return
    base, tuned = _mean_loss(setup.scores(None)), _mean_loss(setup.scores(path))
    require(
        tuned <= base - MIN_LOSS_DECREASE,
        f"loss {base:.4f} before and {tuned:.4f} after, in nats per token; "
        f"expected {MIN_LOSS_DECREASE} less",
    )


@check("technique")
def writes_only_below_out(subject: Subject) -> None:
    """Nothing is written outside ``job.out``; the base model's folder is unchanged."""
    setup, training, _ = train_once(subject)
    require(not training.written, f"it writes {', '.join(training.written[:3])}")
    require(folder_hash(setup.model) == setup.base_hash, "it changes the base model's folder")
    folders = {path.name for path in setup.folder.iterdir() if path.is_dir()}
    known = {"first", "second", "stopped", "refused", "copy", "unchanged"}
    require(folders <= known, f"it writes next to its folder: {sorted(folders - known)}")


@check("technique")
def artifact_reopens(subject: Subject) -> None:
    """The artifact is complete: a copy, opened by a new technique, gives the same scores."""
    setup, _, path = train_once(subject)
    copy = setup.folder / "copy"
    if not copy.exists():
        shutil.copytree(path, copy)
    first, again = setup.scores(path), setup.scores(copy)
    require(_close(first, again), "a copy of the artifact gives different scores")


@check("technique")
def same_seed_same_losses(subject: Subject) -> None:
    """The same seed gives exactly the same losses."""
    if not subject.offer.promises.deterministic:
        raise NotApplicable("does not promise to be deterministic")
    setup = TrainingSetup.of(subject)
    first, second = setup.train("first").losses(), setup.train("second").losses()
    require(first == second, f"losses differ: {first[:3]} and {second[:3]}")


@check("technique")
def base_weights_unchanged(subject: Subject) -> None:
    """The artifact is an adapter, and the base model is unchanged."""
    if not subject.offer.promises.base_weights_unchanged:
        raise NotApplicable("does not promise to leave the base weights unchanged")
    setup = TrainingSetup.of(subject)
    before = setup.scores(None)
    _, training, path = train_once(subject)
    kind = training.artifact.format if training.artifact else ""
    require(kind == "adapter", f"the artifact is a {kind}")
    setup.scores(path)
    require(_close(before, setup.scores(None)), "the base model gives different scores afterwards")
    require(folder_hash(setup.model) == setup.base_hash, "it changes the base model's folder")


@check("technique")
def resumes_where_it_stopped(subject: Subject) -> None:
    """A run that is stopped and continued ends with the weights of an uninterrupted run."""
    if not subject.offer.promises.resumable:
        raise NotApplicable("does not promise to be resumable")
    setup, complete, path = train_once(subject)
    middle = len(complete.steps()) // 2
    if middle < 1:
        raise NotApplicable("its sample options give fewer than two steps")
    training = TrainingRun(setup.folder / "stopped")
    shutil.rmtree(training.out, ignore_errors=True)
    _stop_after(setup, training, middle)
    first_event = len(training.events)
    artifact = subject.build().train(setup.job(training, training.events.append))
    continued = TrainingRun(training.out, training.events[first_event:])
    steps = len(continued.steps())
    require(0 < steps < len(complete.steps()), f"it takes {steps} steps after it is continued")
    for event in continued.steps():
        same_step = next(
            e for e in complete.steps() if (e.stage, e.step) == (event.stage, event.step)
        )
        require(
            math.isclose(event.loss, same_step.loss, rel_tol=SCORE_TOLERANCE),
            f"step {event.step} has loss {event.loss}, without the stop it was {same_step.loss}",
        )
    require(
        _close(setup.scores(path), setup.scores(artifact.path)),
        "the continued run ends with another model",
    )


@check("technique")
def refuses_wrong_records(subject: Subject) -> None:
    """An unusable record is refused or gives a notice; training without records is refused."""
    setup = TrainingSetup.of(subject)
    unusable = Record(source="kit:unusable")
    for records in ((*setup.examples[:2], unusable), ()):
        training = TrainingRun(setup.folder / "refused")
        job = setup.job(training, training.events.append)
        try:
            subject.build().train(_with_records(job, records))
        except Exception as error:
            require(
                bool(records) or isinstance(error, TunesmithError),
                f"no records raise {type(error).__name__}: {error}",
            )
        else:
            warned = any(isinstance(e, Notice) and e.level != "info" for e in training.events)
            what = "a record of an unknown kind" if records else "no records at all"
            require(warned and bool(records), f"it trains on {what} without a warning")
        finally:
            shutil.rmtree(training.out, ignore_errors=True)


@check("technique")
def training_leaves_no_global_changes(subject: Subject) -> None:
    """Training changes neither global state nor libraries, except random generators."""
    setup, _, _ = train_once(subject)  # all imports are done by now
    before, attributes = dict(global_state(generators=False)), library_attributes()
    training = TrainingRun(setup.folder / "unchanged")
    shutil.rmtree(training.out, ignore_errors=True)
    subject.build().train(setup.job(training, training.events.append))
    after = dict(global_state(generators=False))
    changed = [name for name, value in before.items() if after.get(name) != value]
    require(not changed, f"training changes: {', '.join(changed)}")
    require_unpatched(attributes, subject)


# --------------------------------------------------------------------------- files written


def folder_hash(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of the files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


_watchers: list[Callable[[str, tuple[Any, ...]], None]] = []
"""Functions that get audit events now: an audit hook can never be removed."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    for watcher in _watchers:
        watcher(event, arguments)


_hooked: list[bool] = []


@contextmanager
def record_writes(allowed: Path, written: list[str]) -> Iterator[None]:
    """Append files that are written, renamed or created outside ``allowed`` to ``written``.

    Files in ``__pycache__`` and devices are ignored.
    """
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        for path in _written_paths(event, arguments):
            absolute = os.path.abspath(path)
            if absolute.startswith((f"{allowed}{os.sep}", "/dev/", "/proc/")):
                continue
            if "__pycache__" not in absolute and absolute != str(allowed):
                written.append(absolute)

    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


def _written_paths(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """Return the paths that an audit event is about to write."""
    if event == "open":
        path, mode, flags = arguments
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        writes = writes or any(letter in (mode or "") for letter in "wax+")
        return [os.fsdecode(path)] if writes and isinstance(path, (str, bytes)) else []
    if event in ("os.mkdir", "os.remove", "os.rename", "os.truncate"):
        number = 2 if event == "os.rename" else 1
        return [os.fsdecode(p) for p in arguments[:number] if isinstance(p, (str, bytes, Path))]
    return []


def _stop_after(setup: TrainingSetup, training: TrainingRun, steps: int) -> None:
    """Train until ``steps`` steps are reported, then stop as a signal would."""

    def emit(event: Event) -> None:
        training.events.append(event)
        if isinstance(event, StepFinished) and len(training.steps()) == steps:
            raise RunStopped("the kit stops the run")

    try:
        setup.subject.build().train(setup.job(training, emit))
    except RunStopped:
        return
    raise AssertionError("RunStopped, raised by emit, does not end the training")


def _with_records(job: Job[Any], records: Sequence[Record]) -> Job[Any]:
    return replace(job, train=records)


def _mean_loss(logprobs: Sequence[float]) -> float:
    return -math.fsum(logprobs) / max(1, len(logprobs))


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(abs(a - b) <= SCORE_TOLERANCE for a, b in pairs)
