"""Checks of techniques: a small model is trained on eight examples.

Most checks share one training. Others train again: with the same seed, with wrong records, or with
a stop in the middle.
"""

from __future__ import annotations

import math
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import RunStopped, TunesmithError
from tunesmith.events import Event, FindingReported, StepFinished, TrainingFinished
from tunesmith.records import Record
from tunesmith.testing.checks import NotApplicable, Subject, check, require
from tunesmith.testing.everyone import (
    global_state,
    library_attributes,
    require_same_state,
    require_unpatched,
)
from tunesmith.testing.techniques.setup import TrainingRun, TrainingSetup, train_once
from tunesmith.testing.techniques.written_files import folder_hash

MIN_LOSS_DECREASE = 0.1
"""Minimum decrease of the loss in nats per token after training on eight examples."""
_TRY_OTHER_OPTIONS = (
    "if it learns slowly, give options that let it learn faster: more epochs, a higher learning "
    "rate (`samples` in a test, `--set NAME.epochs=40` of `tunesmith plugins check`)"
)
SCORE_TOLERANCE = 1e-5
"""Maximum difference of equal scores, in nats."""
KNOWN_FOLDERS = frozenset(
    {
        "first",
        "second",
        "stopped",
        "refused",
        "copy",
        "unchanged",
        "seed",
        "micro",
        "dated",
        "backwards",
        "spectator",
        "pull",
        "freeze",
    }
)
"""Names of the folders that the checks themselves create."""


@check("technique")
def ends_with_training_finished(subject: Subject) -> None:
    """The last event is the only final ``TrainingFinished``, and its artifact is under ``out``."""
    _, training, path = train_once(subject)
    last = training.events[-1] if training.events else None
    require(
        isinstance(last, TrainingFinished), f"the last event is {last!r:.80}, not TrainingFinished"
    )
    final = [e for e in training.events if isinstance(e, TrainingFinished) and not e.stage]
    require(len(final) == 1, f"there are {len(final)} final TrainingFinished events instead of one")
    require(path.is_dir() and any(path.iterdir()), f"there is no artifact at {path}")
    require(
        training.out / final[0].artifact == path,
        f"TrainingFinished names {final[0].artifact!r}, but the artifact is {path}",
    )


@check("technique")
def steps_count_up(subject: Subject) -> None:
    """Every step is reported, from 1 to the announced number, in every stage."""
    _, training, _ = train_once(subject)
    require(bool(training.steps()), "the technique reports no steps")
    for stage in training.stages():
        numbers = [event.step for event in training.steps(stage)]
        announced = training.steps(stage)[-1].steps
        require(
            numbers == list(range(1, announced + 1)),
            f"the steps are {numbers[:5]}...{numbers[-2:]}, but {announced} were announced",
        )


@check("technique")
def losses_are_finite(subject: Subject) -> None:
    """Losses, gradient norms, learning rates and other metrics are finite."""
    _, training, _ = train_once(subject)
    for event in training.steps():
        values = (event.loss, event.gradient_norm, event.learning_rate, *event.metrics.values())
        require(
            all(map(math.isfinite, values)), f"step {event.step} reports {values}, not all finite"
        )


@check("technique")
def learns_eight_examples(subject: Subject) -> None:
    """The trained model, loaded from disk, has a lower loss on the examples than the base model.

    With pairs, it prefers the chosen completion more strongly than the base model does.
    """
    setup, _, path = train_once(subject)
    before, after = setup.margin(None), setup.margin(path)
    if before is not None and after is not None:
        text = f"chosen over rejected: {before:.4f} nats before training, {after:.4f} after"
        require(
            after >= before + MIN_LOSS_DECREASE,
            f"{text}; expected at least {MIN_LOSS_DECREASE} more; {_TRY_OTHER_OPTIONS}",
        )
        return
    base, tuned = _mean_loss(setup.scores(None)), _mean_loss(setup.scores(path))
    require(
        tuned <= base - MIN_LOSS_DECREASE,
        f"loss {base:.4f} before training and {tuned:.4f} after, in nats per token; "
        f"expected at least {MIN_LOSS_DECREASE} less; {_TRY_OTHER_OPTIONS}",
    )


@check("technique")
def writes_only_below_out(subject: Subject) -> None:
    """Nothing is written outside ``job.out``; the base model's folder is unchanged."""
    setup, training, _ = train_once(subject)
    require(not training.written, f"the technique writes {', '.join(training.written[:3])}")
    require(folder_hash(setup.model) == setup.base_hash, "training changes the base model's folder")
    folders = {path.name for path in setup.folder.iterdir() if path.is_dir()}
    require(
        folders <= KNOWN_FOLDERS,
        f"the technique writes outside its folder: {sorted(folders - KNOWN_FOLDERS)}",
    )


@check("technique")
def artifact_reopens(subject: Subject) -> None:
    """The artifact is complete: a copy of it, opened by a new object, gives the same scores."""
    setup, _, path = train_once(subject)
    copy = setup.folder / "copy"
    if not copy.exists():
        shutil.copytree(path, copy)
    first, again = setup.scores(path), setup.scores(copy)
    require(_close(first, again), "a copy of the artifact gives different scores")


@check("technique")
def same_seed_same_losses(subject: Subject) -> None:
    """The same seed gives exactly the same losses, regardless of random numbers drawn before."""
    if not subject.offer.promises.deterministic:
        raise NotApplicable("the technique does not promise to be deterministic")
    setup = TrainingSetup.of(subject)
    first = setup.train("first").losses()
    draw_random_numbers()
    second = setup.train("second").losses()
    require(first == second, f"the losses differ: {first[:3]} and {second[:3]}")


@check("technique")
def base_weights_unchanged(subject: Subject) -> None:
    """The artifact is an adapter, and the base model is unchanged."""
    if not subject.offer.promises.base_weights_unchanged:
        raise NotApplicable("the technique does not promise to leave the base weights unchanged")
    setup = TrainingSetup.of(subject)
    before = setup.scores(None)
    _, training, path = train_once(subject)
    kind = training.artifact.format if training.artifact else ""
    require(kind == "adapter", f"the artifact is a {kind}, not an adapter")
    setup.scores(path)
    scores = setup.scores(None)
    require(_close(before, scores), "the base model gives different scores after training")
    require(folder_hash(setup.model) == setup.base_hash, "training changes the base model's folder")


@check("technique")
def resumes_where_it_stopped(subject: Subject) -> None:
    """A run that is stopped and continued ends with the weights of an uninterrupted run."""
    if not subject.offer.promises.resumable:
        raise NotApplicable("the technique does not promise to be resumable")
    setup, complete, path = train_once(subject)
    middle = len(complete.steps()) // 2
    if middle < 1:
        raise NotApplicable("the sample options give fewer than two steps")
    training = TrainingRun(setup.folder / "stopped")
    shutil.rmtree(training.out, ignore_errors=True)
    _stop_after(setup, training, middle)
    first_event = len(training.events)
    artifact = subject.build().train(setup.job(training, training.events.append))
    continued = TrainingRun(training.out, training.events[first_event:])
    steps = len(continued.steps())
    what = f"the continued run takes {steps} steps, but the whole run {len(complete.steps())}"
    require(0 < steps < len(complete.steps()), what)
    for event in continued.steps():
        same_step = next(
            e for e in complete.steps() if (e.stage, e.step) == (event.stage, event.step)
        )
        require(
            math.isclose(event.loss, same_step.loss, rel_tol=SCORE_TOLERANCE),
            f"step {event.step} has loss {event.loss}, but {same_step.loss} without the stop",
        )
    require(
        _close(setup.scores(path), setup.scores(artifact.path)),
        "the continued run ends with a different model than an uninterrupted one",
    )


@check("technique")
def refuses_wrong_records(subject: Subject) -> None:
    """A record of an unknown kind causes an error or a finding; no records cause an error."""
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
                f"training without records raises {type(error).__name__}: {error}",
            )
        else:
            warned = any(
                isinstance(e, FindingReported) and e.level != "info" for e in training.events
            )
            what = "a record of an unknown kind" if records else "no records at all"
            require(warned and bool(records), f"the technique trains on {what} without a warning")
        finally:
            shutil.rmtree(training.out, ignore_errors=True)


@check("technique")
def training_leaves_no_global_changes(subject: Subject) -> None:
    """Training changes neither global state nor libraries, except random generators."""
    setup, _, _ = train_once(subject)  # by now, everything has been imported
    before, attributes = dict(global_state(generators=False)), library_attributes()
    training = TrainingRun(setup.folder / "unchanged")
    shutil.rmtree(training.out, ignore_errors=True)
    subject.build().train(setup.job(training, training.events.append))
    require_same_state(before, generators=False)
    require_unpatched(attributes, subject)


def draw_random_numbers() -> None:
    """Advance the global random generators, as other code in the process may have done."""
    random.random()
    for name in ("numpy", "torch"):
        if (library := sys.modules.get(name)) is not None:
            library.random.rand(3) if name == "numpy" else library.rand(3)


def _stop_after(setup: TrainingSetup, training: TrainingRun, steps: int) -> None:
    """Train until ``steps`` steps are reported, then stop as after a signal."""

    def emit(event: Event) -> None:
        training.events.append(event)
        if isinstance(event, StepFinished) and len(training.steps()) == steps:
            raise RunStopped("the kit stops the run")

    try:
        setup.subject.build().train(setup.job(training, emit))
    except RunStopped:
        return
    raise AssertionError("the technique continues after emit has raised RunStopped")


def _with_records(job: Job[Any], records: Sequence[Record]) -> Job[Any]:
    return replace(job, train=records)


def _mean_loss(logprobs: Sequence[float]) -> float:
    return -math.fsum(logprobs) / max(1, len(logprobs))


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(abs(a - b) <= SCORE_TOLERANCE for a, b in pairs)
