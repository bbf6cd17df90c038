"""Checks of reporters: they take every event there is, and close whatever happens."""

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
    DataRead,
    Event,
    Forecast,
    Gated,
    Measured,
    ModelRead,
    Noticed,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    Sampled,
    Saved,
    Stepped,
    Trained,
    TrainingStarted,
    Watched,
)
from tunesmith.storage import RunFolder
from tunesmith.testing.checks import NotApplicable, Subject, check, demand

HOSTILE = "[bold]\x1b[31m日本\u202e{0}%s"
"""Text as models and users make it: markup, escapes, other scripts, format characters."""


def a_run(*, status: str = "ok", total: int | None = 2) -> list[Event]:
    """One event of every kind, in the order of a run."""
    return [
        RunStarted(run="r", name=HOSTILE, started="t", plan={}, versions={}, plugins=[]),
        DataRead(description=HOSTILE, train=8, heldout=2, left_out={"answer is empty": 1}),
        Noticed(level="warning", source="data", message=HOSTILE),
        _forecast(),
        ModelRead(reference=HOSTILE, description=HOSTILE, files={"config.json": "0" * 64}),
        PhaseStarted(phase=HOSTILE, total=total),
        PhaseAdvanced(phase=HOSTILE, done=1),
        PhaseEnded(phase=HOSTILE, seconds=0.1),
        _training_started(),
        _stepped(),
        Sampled(step=1, prompt=HOSTILE, answer=HOSTILE, reward=-1.5),
        Watched(step=1, figures={HOSTILE: 0.5}, best=True),
        Saved(step=1, path="checkpoints/step-00000001", bytes=10, seconds=0.1),
        Trained(
            technique="kit", steps=1, tokens=3, trained_tokens=2, seconds=0.1,
            peak_memory_bytes=0, artifact="adapter", format="adapter",
        ),
        Gated(gate=HOSTILE, passed=False, sentence=HOSTILE, accepted=True, figures={"kl": 1.0}),
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
        kind_of_device="cpu",
        available=None,
        memory={"low": 1, "expected": 2, "high": 3},
        phase=HOSTILE,
        uncorrected=2,
        uncounted=0,
        runs=0,
        seconds=[1.0, 2.0],
        flops=1e9,
        steps=1,
        tokens=3,
        notes=[HOSTILE],
    )


@contextmanager
def opened(subject: Subject) -> Iterator[Reporter]:
    """A reporter on a run folder of its own, in a folder of its own; its output is swallowed."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        folder.mkdir()
        (folder / "lock").touch()
        silent = io.StringIO()
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            built = subject.offer.build(subject.options(), RunFolder(folder))
            with built as reporter:
                yield reporter


@check("reporter")
def accepts_every_event(subject: Subject) -> None:
    """Every kind of event, hostile text, unknown totals, a run within one, a failed run."""
    shown = {event.kind for event in a_run()}
    assert shown == set(EVENT_TYPES), f"the kit lacks {set(EVENT_TYPES) - shown}"
    for events in (a_run(), a_run(status="failed"), a_run(total=None), [*a_run()[1:], *a_run()]):
        with opened(subject) as reporter:
            for event in events:
                try:
                    reporter.report(event)
                except Exception as error:
                    raise AssertionError(
                        f"{event.kind} raises {type(error).__name__}: {error}"
                    ) from None


@check("reporter")
def closes_after_failure(subject: Subject) -> None:
    """When a run fails, the reporter closes what it opened and lets the error pass."""
    before = open_files()
    for events in ([], a_run()[:4], a_run()):
        try:
            with opened(subject) as reporter:
                for event in events:
                    with contextlib.suppress(Exception):  # that is another promise
                        reporter.report(event)
                raise ZeroDivisionError("the kit ends the run")
        except ZeroDivisionError:
            continue
        raise AssertionError("it swallows the exception that ended the run")
    left = open_files() - before
    demand(not left, f"it leaves open: {', '.join(sorted(left)[:3])}")


def open_files() -> set[str]:
    """What this process has open, where the system tells."""
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        raise NotApplicable("this system does not tell which files are open")
    found = set()
    for entry in listing.iterdir():
        with contextlib.suppress(OSError):
            found.add(f"{entry.name} {os.readlink(entry)}")
    return {text for text in found if "/proc/" not in text}


def _training_started() -> Event:
    return TrainingStarted(
        technique="kit", steps=1, epochs=1.0, rows=8, tokens=3, trained_tokens=2,
        trainable_parameters=1, parameters=2, device="cpu", precision="fp32",
    )  # fmt: skip


def _stepped() -> Event:
    return Stepped(
        step=1, steps=1, loss=2.0, learning_rate=0.1, gradient_norm=1.0, rows=8, tokens=3,
        trained_tokens=2, seconds=0.1, memory_bytes=0, extras={"reward": 1.0},
    )  # fmt: skip


def _measured(model: str) -> Event:
    return Measured(
        model=model, evaluator="kit", metric="loss", value=1.0, low=0.5, high=1.5, n=2,
        higher_is_better=False, seconds=0.1, records="evaluations/kit.jsonl", unit="nats/token",
    )  # fmt: skip
