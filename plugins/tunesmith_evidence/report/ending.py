"""The status of a run, and its end before its time: what happened, where, and what to do next."""

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

__all__ = ["Ending", "describe_ending", "is_running"]

SKIPPED_EVENTS = (
    "step-finished", "stepped", "phase-started", "phase-advanced", "phase-ended", "first-batch",
    "measured", "finding", "baseline-chosen", "monitored", "completion-sampled", "checkpoint-saved",
)  # fmt: skip
"""Kinds of events that do not say which part of a run is next."""
KILLED = "the process ended without a message: it was killed, or the machine went down"


@dataclass(frozen=True)
class Ending:
    """The end of a run that has no result, or not all of them."""

    what: str
    """The error, or the reason why the run was stopped."""
    where: str
    """The part of the run, and when."""
    hint: str
    """The first thing to do; empty if nothing is known."""
    command: str
    """The command that goes on, with RUN for the folder of the run."""

    def format_command(self, folder: str) -> str:
        """Return the command for a folder, which is quoted for the shell."""
        return self.command.replace("RUN", folder)


def find_status(folder: Path, report: Report) -> str:
    """Return ok, failed or stopped; running or unfinished for a run that has not ended."""
    if report.finished is None and is_running(folder):
        return "running"
    return report.status


def is_running(folder: Path) -> bool:
    """Return True if the process that locked the run folder may be alive."""
    holder = LockHolder.read(folder)
    return holder is not None and holder.may_be_alive()


def describe_ending(folder: Path, report: Report) -> Ending | None:
    """Describe the end of a run; None if it has a verdict, has ended well, or is running."""
    finished = report.finished
    status = find_status(folder, report)
    if status in ("ok", "running") or report.started is None or (finished and finished.verdict):
        return None
    if finished is None:
        return Ending(KILLED, _find_place(folder, report), "", "tunesmith resume RUN")
    command = "tunesmith resume RUN"
    if _will_repeat(finished) or _is_too_large(report):
        # With the same options the same happens again, and a run that is resumed keeps its options.
        command = "tunesmith run RUN/run.toml --set KEY=VALUE"
    elif finished.exit_code == PluginError.exit_code:
        command = "tunesmith resume RUN --debug"
    hint = "" if status == "stopped" else finished.hint
    what = finished.error or f"the run has {status}"
    return Ending(what, _find_place(folder, report), hint, command)


def _will_repeat(finished: RunFinished) -> bool:
    """Return True if the run fails again when it is resumed; by its exit code in older logs."""
    if finished.will_repeat is None:
        return finished.exit_code == TrainingError.exit_code
    return finished.will_repeat


def _is_too_large(report: Report) -> bool:
    return report.forecast is not None and report.forecast.refused


def _find_place(folder: Path, report: Report) -> str:
    """Return the part of the run that its last process was in, and how long it had run."""
    log = folder / "events.jsonl"
    if not log.is_file():
        return "unknown: the run has no events.jsonl"
    part = stage = ""
    begun = "the start"
    for event in read_known_events(log, skipped=SKIPPED_EVENTS):
        match event:
            case RunStarted():
                part = "while the data was read"
                begun = "it was resumed" if event.resumed else begun
            case DataLoaded():
                part = "in the checks before the training"
            case ModelResolved():
                part = "while the baselines were measured"
            case TrainingStarted():
                stage, part = event.stage, "training"
            case TrainingFinished() if not event.stage:
                part = "in the evaluation of the tuned model, after the training"
            case _:
                pass
    if part == "training":
        part = _describe_step(report, stage)
    return f"{part}, {_describe_time(log, report, begun)}"


def _describe_step(report: Report, stage: str) -> str:
    where = f"in the training of {stage}" if stage else "in the training"
    done = max((step for name, step in report.steps if name == stage), default=0)
    steps = report.training_started[stage].steps
    return f"{where}, after step {done:,} of {steps:,}" if done else f"{where}, in the first step"


def _describe_time(log: Path, report: Report, begun: str) -> str:
    if report.finished is not None:
        return f"{format_duration(report.finished.seconds)} after {begun}"
    written = datetime.fromtimestamp(log.stat().st_mtime, UTC)
    return f"last event {format_date(written.isoformat())}"
