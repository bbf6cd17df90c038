"""Describe a run's status and, if it ended early, what happened, where, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.errors import PluginError, TrainingError
from tunesmith.events import (
    DataLoaded,
    ModelResolved,
    RunFinished,
    RunStarted,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.execution.report import Report
from tunesmith.storage import LockHolder, read_known_events
from tunesmith.text import format_duration
from tunesmith_evidence.number_text import format_date

__all__ = ["RunEnding", "describe_ending", "is_running"]

SKIPPED_EVENTS = (
    "step-finished", "stepped", "phase-started", "phase-advanced", "phase-ended", "first-batch",
    "measured", "finding", "baseline-chosen", "monitored", "completion-sampled", "checkpoint-saved",
)  # fmt: skip
"""Kinds of events that do not mark the start of a new part of the run."""
KILLED_MESSAGE = (
    "the process ended without a message: it was killed (out of memory?), or the machine shut down"
)


@dataclass(frozen=True)
class RunEnding:
    """The end of a run without a complete result."""

    what: str
    """The error, or the reason why the run was stopped."""
    where: str
    """The part of the run where it ended, and the time since its start."""
    hint: str
    """The first thing to do; may be empty."""
    command: str
    """The command to continue with, where ``RUN`` stands for the run folder."""

    def format_command(self, folder: str) -> str:
        """Return the command for a run folder, which the caller must quote for the shell."""
        return self.command.replace("RUN", folder)


def find_status(folder: Path, report: Report) -> str:
    """Return the status ``ok``, ``failed``, ``stopped``, ``running`` or ``unfinished``."""
    if report.finished is None and is_running(folder):
        return "running"
    return report.status


def is_running(folder: Path) -> bool:
    """Return True if the process that locked the run folder may still be alive."""
    holder = LockHolder.read(folder)
    return holder is not None and holder.may_be_alive()


def describe_ending(folder: Path, report: Report) -> RunEnding | None:
    """Return how a run ended, or None if it is running, succeeded or has a verdict."""
    finished = report.finished
    status = find_status(folder, report)
    if status in ("ok", "running") or report.started is None or (finished and finished.verdict):
        return None
    if finished is None:
        return RunEnding(KILLED_MESSAGE, _find_place(folder, report), "", "tunesmith resume RUN")
    command = "tunesmith resume RUN"
    if _will_repeat(finished) or _is_too_large(report):
        # A resumed run keeps its options, so it would fail again in the same way.
        command = "tunesmith run RUN/run.toml --set KEY=VALUE"
    elif finished.exit_code == PluginError.exit_code:
        command = "tunesmith resume RUN --debug"
    hint = "" if status == "stopped" else finished.hint
    what = finished.error or f"the run has {status}"
    return RunEnding(what, _find_place(folder, report), hint, command)


def _will_repeat(finished: RunFinished) -> bool:
    """Return True if the run would fail again when resumed.

    Logs of earlier versions do not state this, so the exit code decides.
    """
    if finished.will_repeat is None:
        return finished.exit_code == TrainingError.exit_code
    return finished.will_repeat


def _is_too_large(report: Report) -> bool:
    return report.forecast is not None and report.forecast.refused


def _find_place(folder: Path, report: Report) -> str:
    """Return the part of the run that the last process reached, with the elapsed time."""
    log = folder / "events.jsonl"
    if not log.is_file():
        return "unknown, because the run folder has no events.jsonl"
    part = stage = ""
    begun = "the start"
    for event in read_known_events(log, skipped=SKIPPED_EVENTS):
        match event:
            case RunStarted():
                part = "while reading the data"
                begun = "it was resumed" if event.resumed else begun
            case DataLoaded():
                part = "during the checks before training"
            case ModelResolved():
                part = "while measuring the baselines"
            case TrainingStarted():
                stage, part = event.stage, "training"
            case TrainingFinished() if not event.stage:
                part = "while evaluating the tuned model, after training"
            case _:
                pass
    if part == "training":
        part = _describe_step(report, stage)
    return f"{part}, {_describe_time(log, report, begun)}"


def _describe_step(report: Report, stage: str) -> str:
    where = f"while training {stage}" if stage else "during training"
    done = max((step for name, step in report.steps if name == stage), default=0)
    steps = report.training_started[stage].steps
    return f"{where}, after step {done:,} of {steps:,}" if done else f"{where}, in the first step"


def _describe_time(log: Path, report: Report, begun: str) -> str:
    if report.finished is not None:
        return f"{format_duration(report.finished.seconds)} after {begun}"
    written = datetime.fromtimestamp(log.stat().st_mtime, UTC)
    return f"last event {format_date(written.isoformat())}"
