"""Checks of techniques: a small model is trained on eight examples, three times in all.

The first training is shared by most checks; one more has the same seed, one is stopped in the
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
from tunesmith.events import Event, Noticed, Stepped, Trained
from tunesmith.records import Preference, Prompt, Record, exchanges
from tunesmith.storage import Checkpoints
from tunesmith.testing.checks import NotApplicable, Subject, check, demand
from tunesmith.testing.everyone import demand_unpatched, library_parts, surroundings
from tunesmith.testing.examples import EIGHT

SEED = 7
LEARNED = 0.1
"""Nats per token by which learning eight examples by heart lowers their loss, at least."""
SAME = 1e-5
"""Nats by which scores may differ and still be called the same."""


@dataclass
class Rehearsal:
    """One training on eight examples, and everything that could be seen of it."""

    out: Path
    events: list[Event] = field(default_factory=list)
    artifact: Artifact | None = None
    written: list[str] = field(default_factory=list)
    """Files that were opened for writing outside ``out``."""

    def steps(self, stage: str | None = None) -> list[Stepped]:
        steps = [event for event in self.events if isinstance(event, Stepped)]
        return [event for event in steps if stage is None or event.stage == stage]

    def losses(self) -> list[float]:
        return [event.loss for event in self.steps()]

    def stages(self) -> list[str]:
        """The stages that took steps, in order; one of them is nameless where there is one."""
        return list(dict.fromkeys(event.stage for event in self.steps()))


@dataclass
class Stage:
    """A place for the trainings of one offer; it goes when the process ends."""

    subject: Subject
    model: Path
    place: Path
    kinds: list[type[Record]]
    """Kinds of records that it accepts, the simplest first."""
    base_hash: str

    @property
    def examples(self) -> tuple[Record, ...]:
        """Eight records of the simplest kind that is enough for it."""
        return EIGHT[self.kinds[0]]

    @classmethod
    def of(cls, subject: Subject) -> Stage:
        """The stage of this offer, set up once."""
        if "stage" not in subject.memory:
            model = subject.samples.model_folder()
            kinds = [kind for kind in EIGHT if kind in subject.offer.accepts]
            demand(bool(kinds), "it accepts no kind of records that the kit has examples of")
            place = Path(tempfile.mkdtemp(prefix="tunesmith-kit-"))
            atexit.register(shutil.rmtree, place, ignore_errors=True)
            subject.memory["stage"] = cls(subject, model, place, kinds, folder_hash(model))
        return cast(Stage, subject.memory["stage"])

    def job(self, rehearsal: Rehearsal, emit: Callable[[Event], None]) -> Job[Any]:
        rehearsal.out.mkdir(exist_ok=True)
        return Job(
            config=self.subject.options(),
            model=self.model,
            train=self.examples,
            heldout=self.examples[:2],
            out=rehearsal.out,
            seed=SEED,
            device="cpu",
            checkpoints=Checkpoints(rehearsal.out / "checkpoints"),
            emit=emit,
            technique=self.subject.offer.name,
        )

    def train(self, name: str) -> Rehearsal:
        """One uninterrupted training, done once for each name."""
        if name not in self.subject.memory:
            rehearsal = Rehearsal(self.place / name)
            with watched_writes(rehearsal.out, rehearsal.written):
                self._rehearse(rehearsal)
            self.subject.memory[name] = rehearsal
        return cast(Rehearsal, self.subject.memory[name])

    def _rehearse(self, rehearsal: Rehearsal) -> None:
        """Train; where records of one kind alone are not enough, with those of the next."""
        try:
            job = self.job(rehearsal, rehearsal.events.append)
            rehearsal.artifact = self.subject.build().train(job)
        except DataError:
            if len(self.kinds) == 1:
                raise
            del self.kinds[0]
            shutil.rmtree(rehearsal.out, ignore_errors=True)
            rehearsal.events.clear()
            self._rehearse(rehearsal)

    def open(self, artifact: Path | None) -> TextModel:
        """The model, opened by a technique that has not trained it."""
        model: TextModel = self.subject.build().open(self.model, artifact, device="cpu")
        return model

    def scores(self, artifact: Path | None) -> list[float]:
        """Log-probabilities of the examples' answers, in nats, one for each token."""
        asked = [exchange for record in self.examples for exchange in exchanges(record)]
        scored = self.open(artifact).score([p for p, _ in asked], [a for _, a in asked])
        return [value for tokens in scored for value in tokens.logprobs]

    def margin(self, artifact: Path | None) -> float | None:
        """How much likelier chosen answers are than rejected ones, in nats; None: no pairs."""
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


def trained(subject: Subject) -> tuple[Stage, Rehearsal, Path]:
    """The stage, the shared training, and the path of its artifact."""
    stage = Stage.of(subject)
    rehearsal = stage.train("first")
    artifact = rehearsal.artifact
    demand(isinstance(artifact, Artifact), f"train gives {type(artifact).__name__}, no Artifact")
    assert artifact is not None
    return stage, rehearsal, artifact.path


@check("technique")
def ends_with_one_trained(subject: Subject) -> None:
    """The last word is one ``Trained`` that names the artifact, which is there, below ``out``."""
    _, rehearsal, path = trained(subject)
    last = rehearsal.events[-1] if rehearsal.events else None
    demand(isinstance(last, Trained), f"the last event is {last!r:.80}, not Trained")
    final = [e for e in rehearsal.events if isinstance(e, Trained) and not e.stage]
    demand(len(final) == 1, f"{len(final)} events Trained of the whole, not one")
    demand(path.is_dir() and any(path.iterdir()), f"no artifact at {path}")
    demand(
        rehearsal.out / final[0].artifact == path,
        f"Trained names {final[0].artifact!r}, the artifact is {path}",
    )


@check("technique")
def steps_count_up(subject: Subject) -> None:
    """Steps are told one by one, from 1 to the number announced, in every stage."""
    _, rehearsal, _ = trained(subject)
    demand(bool(rehearsal.steps()), "no step is told")
    for stage in rehearsal.stages():
        numbers = [event.step for event in rehearsal.steps(stage)]
        announced = rehearsal.steps(stage)[-1].steps
        demand(
            numbers == list(range(1, announced + 1)),
            f"steps {numbers[:5]}...{numbers[-2:]} of {announced} announced",
        )


@check("technique")
def losses_are_finite(subject: Subject) -> None:
    """Losses, gradient norms, learning rates and extra figures are numbers."""
    _, rehearsal, _ = trained(subject)
    for event in rehearsal.steps():
        figures = (event.loss, event.gradient_norm, event.learning_rate, *event.extras.values())
        demand(all(map(math.isfinite, figures)), f"step {event.step} tells {figures}")


@check("technique")
def learns_eight_examples(subject: Subject) -> None:
    """The trained model, read back from disk, finds the examples likelier than the base does.

    Of pairs, it prefers the chosen answer more than the base does.
    """
    stage, _, path = trained(subject)
    before, after = stage.margin(None), stage.margin(path)
    if before is not None and after is not None:
        text = f"chosen over rejected {before:.4f} nats before and {after:.4f} after"
        demand(after >= before + LEARNED, f"{text}; wanted {LEARNED} more")
        return
    base, tuned = _mean_loss(stage.scores(None)), _mean_loss(stage.scores(path))
    demand(
        tuned <= base - LEARNED,
        f"loss {base:.4f} before and {tuned:.4f} after, in nats per token; wanted {LEARNED} less",
    )


@check("technique")
def writes_only_below_out(subject: Subject) -> None:
    """Nothing is written outside ``job.out``; the base model's folder is as it was."""
    stage, rehearsal, _ = trained(subject)
    demand(not rehearsal.written, f"it writes {', '.join(rehearsal.written[:3])}")
    demand(folder_hash(stage.model) == stage.base_hash, "it changes the base model's folder")
    here = sorted(path.name for path in stage.place.iterdir() if path.is_dir())
    known = {"first", "second", "stopped", "refused", "copy", "watched"}
    demand(set(here) <= known, f"it writes beside its folder: {here}")


@check("technique")
def artifact_reopens(subject: Subject) -> None:
    """The artifact is complete: a copy elsewhere, read by a fresh technique, scores the same."""
    stage, _, path = trained(subject)
    copy = stage.place / "copy"
    if not copy.exists():
        shutil.copytree(path, copy)
    first, again = stage.scores(path), stage.scores(copy)
    demand(_close(first, again), "a copy of the artifact scores differently")


@check("technique")
def same_seed_same_losses(subject: Subject) -> None:
    """The same seed gives the same losses, digit for digit."""
    if not subject.offer.promises.deterministic:
        raise NotApplicable("does not promise to be deterministic")
    stage = Stage.of(subject)
    first, second = stage.train("first").losses(), stage.train("second").losses()
    demand(first == second, f"losses differ: {first[:3]} and {second[:3]}")


@check("technique")
def base_weights_unchanged(subject: Subject) -> None:
    """The artifact is an adapter, and the base model beside it is the base model still."""
    if not subject.offer.promises.base_weights_unchanged:
        raise NotApplicable("does not promise to leave the base weights unchanged")
    stage = Stage.of(subject)
    before = stage.scores(None)
    _, rehearsal, path = trained(subject)
    kind = rehearsal.artifact.format if rehearsal.artifact else ""
    demand(kind == "adapter", f"the artifact is a {kind}")
    stage.scores(path)
    demand(_close(before, stage.scores(None)), "the base model scores differently afterwards")
    demand(folder_hash(stage.model) == stage.base_hash, "it changes the base model's folder")


@check("technique")
def resumes_where_it_stopped(subject: Subject) -> None:
    """Stopped in the middle and continued, it ends with the weights of an unbroken run."""
    if not subject.offer.promises.resumable:
        raise NotApplicable("does not promise to be resumable")
    stage, whole, path = trained(subject)
    middle = len(whole.steps()) // 2
    if middle < 1:
        raise NotApplicable("its sample options give fewer than two steps")
    rehearsal = Rehearsal(stage.place / "stopped")
    shutil.rmtree(rehearsal.out, ignore_errors=True)
    _stop_after(stage, rehearsal, middle)
    done = len(rehearsal.events)
    artifact = subject.build().train(stage.job(rehearsal, rehearsal.events.append))
    again = Rehearsal(rehearsal.out, rehearsal.events[done:])
    taken = len(again.steps())
    demand(0 < taken < len(whole.steps()), f"it takes {taken} steps again after being continued")
    for event in again.steps():
        alike = next(e for e in whole.steps() if (e.stage, e.step) == (event.stage, event.step))
        demand(
            math.isclose(event.loss, alike.loss, rel_tol=SAME),
            f"step {event.step} has loss {event.loss}, without the stop it was {alike.loss}",
        )
    same = _close(stage.scores(path), stage.scores(artifact.path))
    demand(same, "the continued run ends with another model")


@check("technique")
def refuses_wrong_records(subject: Subject) -> None:
    """A record that it cannot learn from is refused or told of; having none is refused."""
    stage = Stage.of(subject)
    foreign = Record(source="kit:foreign")
    for records in ((*stage.examples[:2], foreign), ()):
        rehearsal = Rehearsal(stage.place / "refused")
        job = stage.job(rehearsal, rehearsal.events.append)
        try:
            subject.build().train(_with_records(job, records))
        except Exception as error:
            demand(
                bool(records) or isinstance(error, TunesmithError),
                f"no records raise {type(error).__name__}: {error}",
            )
        else:
            said = any(isinstance(e, Noticed) and e.level != "info" for e in rehearsal.events)
            what = "a record of no known kind" if records else "no records at all"
            demand(said and bool(records), f"it trains on {what} without a word")
        finally:
            shutil.rmtree(rehearsal.out, ignore_errors=True)


@check("technique")
def training_is_a_good_guest(subject: Subject) -> None:
    """Training leaves process and libraries as they were, random generators excepted."""
    stage, _, _ = trained(subject)  # what it imports is imported by now
    before, parts = dict(surroundings(generators=False)), library_parts()
    rehearsal = Rehearsal(stage.place / "watched")
    shutil.rmtree(rehearsal.out, ignore_errors=True)
    subject.build().train(stage.job(rehearsal, rehearsal.events.append))
    after = dict(surroundings(generators=False))
    changed = [name for name, value in before.items() if after.get(name) != value]
    demand(not changed, f"training changes: {', '.join(changed)}")
    demand_unpatched(parts, subject)


# --------------------------------------------------------------------------- how it is seen


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and the content of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


_watchers: list[Callable[[str, tuple[Any, ...]], None]] = []
"""Who is told of audit events now: a hook can be added to an interpreter, but never removed."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    for watcher in _watchers:
        watcher(event, arguments)


_hooked: list[bool] = []


@contextmanager
def watched_writes(allowed: Path, found: list[str]) -> Iterator[None]:
    """Note files that are opened for writing, renamed or made outside of a folder.

    Python's own files below ``__pycache__`` and devices are nobody's business.
    """
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        for path in _written(event, arguments):
            absolute = os.path.abspath(path)
            if absolute.startswith((f"{allowed}{os.sep}", "/dev/", "/proc/")):
                continue
            if "__pycache__" not in absolute and absolute != str(allowed):
                found.append(absolute)

    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


def _written(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """The paths that an audit event is about to write."""
    if event == "open":
        path, mode, flags = arguments
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        writes = writes or any(letter in (mode or "") for letter in "wax+")
        return [os.fsdecode(path)] if writes and isinstance(path, (str, bytes)) else []
    if event in ("os.mkdir", "os.remove", "os.rename", "os.truncate"):
        number = 2 if event == "os.rename" else 1
        return [os.fsdecode(p) for p in arguments[:number] if isinstance(p, (str, bytes, Path))]
    return []


def _stop_after(stage: Stage, rehearsal: Rehearsal, steps: int) -> None:
    """Train until so many steps are told, then stop as a signal would."""

    def emit(event: Event) -> None:
        rehearsal.events.append(event)
        if isinstance(event, Stepped) and len(rehearsal.steps()) == steps:
            raise RunStopped("the kit stops the run")

    try:
        stage.subject.build().train(stage.job(rehearsal, emit))
    except RunStopped:
        return
    raise AssertionError("RunStopped, raised by emit, does not end the training")


def _with_records(job: Job[Any], records: Sequence[Record]) -> Job[Any]:
    return replace(job, train=records)


def _mean_loss(logprobs: Sequence[float]) -> float:
    return -math.fsum(logprobs) / max(1, len(logprobs))


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(abs(a - b) <= SAME for a, b in pairs)
