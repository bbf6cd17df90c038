"""Checks of reporters: they accept every event, and close after every run."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.contracts import Reporter
from tunesmith.events import (
    EVENT_TYPES,
    CheckpointSaved,
    CompletionSampled,
    DataLoaded,
    Event,
    Forecast,
    GateChecked,
    Measured,
    ModelResolved,
    Monitored,
    Notice,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.storage import RunFolder
from tunesmith.testing.checks import NotApplicable, Subject, check, require

HOSTILE = "[bold]\x1b[31m日本\u202e{0}%s"
"""Text as models and users may write it: markup, escapes, other scripts, format characters."""


def events_of_run(*, status: str = "ok", total: int | None = 2) -> list[Event]:
    """Return the events of a run, with at least one of every kind."""
    return [
        RunStarted(run="r", name=HOSTILE, started="t", plan={}, versions={}, plugins=[]),
        DataLoaded(description=HOSTILE, train=8, heldout=2, left_out={"answer is empty": 1}),
        Notice(level="warning", source="data", message=HOSTILE),
        _forecast(),
        ModelResolved(reference=HOSTILE, description=HOSTILE, files={"config.json": "0" * 64}),
        PhaseStarted(phase=HOSTILE, total=total),
        PhaseAdvanced(phase=HOSTILE, done=1),
        PhaseEnded(phase=HOSTILE, seconds=0.1),
        _training_started(),
        _stepped(),
        CompletionSampled(step=1, prompt=HOSTILE, completion=HOSTILE, reward=-1.5),
        Monitored(step=1, metrics={HOSTILE: 0.5}, best=True),
        CheckpointSaved(step=1, path="checkpoints/step-00000001", bytes=10, seconds=0.1),
        TrainingFinished(
            technique="kit", steps=1, tokens=3, trained_tokens=2, seconds=0.1,
            peak_memory_bytes=0, artifact="adapter", format="adapter",
        ),
        GateChecked(
            gate=HOSTILE, passed=False, message=HOSTILE, accepted=True, metrics={"kl": 1.0}
        ),
        *(_measured(model) for model in ("base", "few-shot", "tuned")),
        RunFinished(
            status=status,  # type: ignore[arg-type]
            exit_code=0 if status == "ok" else 5,
            finished="t",
            seconds=1.0,
            verdict={"outcome": "unclear", "sentence": HOSTILE} if status == "ok" else {},
            error="" if status == "ok" else HOSTILE,
        ),
    ]  # fmt: skip


def _forecast() -> Forecast:
    return Forecast(
        technique=HOSTILE,
        method="analytic",
        device=HOSTILE,
        device_type="cpu",
        available=None,
        memory={"low": 1, "expected": 2, "high": 3},
        phase=HOSTILE,
        uncalibrated_peak=2,
        untracked_bytes=0,
        calibration_runs=0,
        seconds=[1.0, 2.0],
        flops=1e9,
        steps=1,
        tokens=3,
        notes=[HOSTILE],
    )


@contextmanager
def open_reporter(subject: Subject, output: io.StringIO | None = None) -> Iterator[Reporter]:
    """Open a reporter with a temporary run folder; its output goes into ``output``."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        folder.mkdir()
        (folder / "lock").touch()
        output = output or io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            built = subject.offer.build(subject.options(), RunFolder(folder))
            with built as reporter:
                yield reporter


@check("reporter")
def accepts_every_event(subject: Subject) -> None:
    """Every event is accepted: all kinds, hostile text, unknown totals, nested and failed runs."""
    kinds = {event.kind for event in events_of_run()}
    assert kinds == set(EVENT_TYPES), f"the kit lacks {set(EVENT_TYPES) - kinds}"
    for events in (
        events_of_run(),
        events_of_run(status="failed"),
        events_of_run(total=None),
        [*events_of_run()[1:], *events_of_run()],
    ):
        with open_reporter(subject) as reporter:
            for event in events:
                try:
                    reporter.report(event)
                except Exception as error:
                    raise AssertionError(
                        f"{event.kind} raises {type(error).__name__}: {error}"
                    ) from None


@check("reporter")
def closes_after_failure(subject: Subject) -> None:
    """The reporter closes all files when a run fails, and lets the exception pass."""
    before = list_open_files()
    for events in ([], events_of_run()[:4], events_of_run()):
        try:
            with open_reporter(subject) as reporter:
                for event in events:
                    with contextlib.suppress(Exception):  # checked by accepts_every_event
                        reporter.report(event)
                raise ZeroDivisionError("the kit ends the run")
        except ZeroDivisionError:
            continue
        raise AssertionError("it swallows the exception that ended the run")
    leaked = list_open_files() - before
    require(not leaked, f"it leaves open: {', '.join(sorted(leaked)[:3])}")


@check("reporter of every run")
def reporters_of_every_run_are_silent(subject: Subject) -> None:
    """A reporter of every run prints nothing and requires no option."""
    missing = [
        name for name, info in subject.offer.config.model_fields.items() if info.is_required()
    ]
    require(not missing, f"it requires the options {', '.join(missing)}")
    output = io.StringIO()
    with open_reporter(subject, output) as reporter:
        for event in events_of_run():
            reporter.report(event)
    require(not output.getvalue(), f"it prints {output.getvalue()[:80]!r}")


def list_open_files() -> set[str]:
    """Return the open files of this process.

    Raises:
        NotApplicable: the system does not list them.
    """
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        raise NotApplicable("this system does not list open files")
    files = set()
    for entry in listing.iterdir():
        with contextlib.suppress(OSError):
            files.add(f"{entry.name} {os.readlink(entry)}")
    return {text for text in files if "/proc/" not in text}


def _training_started() -> Event:
    return TrainingStarted(
        technique="kit", steps=1, epochs=1.0, rows=8, tokens=3, trained_tokens=2,
        trainable_parameters=1, parameters=2, device="cpu", precision="fp32",
    )  # fmt: skip


def _stepped() -> Event:
    return StepFinished(
        step=1, steps=1, loss=2.0, learning_rate=0.1, gradient_norm=1.0, rows=8, tokens=3,
        trained_tokens=2, seconds=0.1, memory_bytes=0, metrics={"reward": 1.0},
    )  # fmt: skip


def _measured(model: str) -> Event:
    return Measured(
        model=model, evaluator="kit", metric="loss", value=1.0, low=0.5, high=1.5, n=2,
        higher_is_better=False, seconds=0.1, records="evaluations/kit.jsonl", unit="nats/token",
    )  # fmt: skip
