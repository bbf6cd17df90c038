"""Describe a training run as text: its settings, and its predicted and measured memory and time."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.events import DataLoaded, GateChecked, TrainingStarted
from tunesmith.execution.report import Report
from tunesmith.text import format_bytes, format_count, format_duration
from tunesmith_evidence.number_text import (
    format_duration_range,
    format_number,
    format_rate,
    format_share,
)

Rating = Literal["good", "warning", "bad"]

__all__ = [
    "Prediction",
    "describe_cost",
    "describe_data",
    "describe_gate",
    "describe_processes",
    "describe_stage",
    "format_reproduction",
    "list_predictions",
    "name_base_model",
]


@dataclass(frozen=True)
class Prediction:
    """A quantity with its predicted range and its measured value."""

    quantity: str
    low: float
    """Lower end of the range, in ``unit``."""
    high: float
    """Upper end of the range, in ``unit``."""
    actual: float | None
    """The measured value, or None if it is not known yet."""
    unit: str
    """``bytes`` or ``seconds``."""

    def format(self, value: float) -> str:
        """Format a value of this quantity with its unit."""
        return format_bytes(round(value)) if self.unit == "bytes" else format_duration(value)

    @property
    def predicted(self) -> str:
        """The predicted range with its unit, such as ``1.0 GiB to 3.0 GiB``."""
        if self.unit == "seconds":
            return format_duration_range(self.low, self.high)
        return f"{self.format(self.low)} to {self.format(self.high)}"

    @property
    def measured(self) -> str:
        """The measured value as text, or an empty string if nothing was measured."""
        return "" if self.actual is None else self.format(self.actual)

    @property
    def judgment(self) -> str:
        """``within``, ``below`` or ``above`` the predicted range, or "" if nothing was measured."""
        if self.actual is None:
            return ""
        if self.low <= self.actual <= self.high:
            return "within"
        return "below" if self.actual < self.low else "above"


def list_predictions(report: Report) -> list[Prediction]:
    """Return predicted and measured memory and time, or an empty list without predictions."""
    forecast = report.forecast
    if forecast is None:
        return []
    is_finished = report.training_finished.get("") is not None
    peak = report.peak_memory + forecast.untracked_bytes if is_finished else None
    memory = forecast.memory
    rows = [Prediction("peak memory", memory["low"], memory["high"], peak, "bytes")]
    if not forecast.parts:
        seconds = report.training_seconds if is_finished else None
        times = [("training", forecast.seconds, seconds)] if forecast.seconds else []
    else:
        is_over = report.status == "ok" or bool(report.verdict)
        taken = report.part_seconds if is_over else {}
        times = [(part, seconds, taken.get(part)) for part, seconds in forecast.parts.items()]
        total = [sum(ends) for ends in zip(*forecast.parts.values(), strict=True)]
        all_taken = sum(taken.get(part, 0.0) for part in forecast.parts) if is_over else None
        times.append(("total", total, all_taken))
    rows += [
        Prediction(f"{part} time", low, high, actual, "seconds")
        for part, (low, high), actual in times
    ]
    return rows


def describe_stage(report: Report, stage: str) -> dict[str, str]:
    """Return the known facts about a training stage, by name."""
    started = report.training_started[stage]
    steps = report.steps_of(stage)
    finished = report.training_finished.get(stage)
    seconds, tokens = sum(s.seconds for s in steps), sum(s.tokens for s in steps)
    trained = sum(s.trained_tokens for s in steps)
    peak = max((s.memory_bytes for s in steps), default=0)
    affected = finished.affected_rows if finished else {}
    facts = {
        "technique": started.technique,
        "steps": f"{len(steps):,} of {started.steps:,}",
        "rows": f"{format_count(started.rows, 'training row')}, {format_epochs(started.epochs)}",
        "tokens": f"{tokens:,} ({trained:,} trained on)" if steps else "",
        "rows skipped or changed": "; ".join(f"{n:,}: {cause}" for cause, n in affected.items()),
        "learning rate": _peak_rate([step.learning_rate for step in steps]),
        "learning rates tried": "; ".join(_list_pilots(started)),
        "time": format_duration(seconds) if steps else "",
        "speed": f"{tokens / seconds:,.0f} tokens/s" if seconds else "",
        "peak memory": format_bytes(peak) if peak else "",
        "trainable parameters": (
            f"{started.trainable_parameters:,} of {started.parameters:,}"
            f" ({format_share(started.trainable_parameters / max(started.parameters, 1))})"
        ),
        "device": started.device,
        "processes": describe_processes(started),
        "precision": started.precision,
    }
    return {key: value for key, value in facts.items() if value}


def _list_pilots(started: TrainingStarted) -> Iterator[str]:
    """Yield the result of each pilot run that chose the learning rate, on validation rows."""
    facts = started.details.get("rate_pilots", {})
    for pilot in facts.get("pilots", ()):
        loss, score = pilot["validation_loss"], pilot["score"]
        shown = "diverged" if loss is None else f"loss {format_number(loss)}"
        if score is not None:
            shown = f"{facts['by']} {format_number(score)}, {shown}"
        yield f"{format_rate(pilot['rate'])}: {shown}"


def name_base_model(report: Report) -> str:
    """Return the base model's name without its organization or folder, or "" if it is unknown."""
    if report.model is None:
        return ""
    found = re.search(r"\S+(?=\.gguf)", report.model.description)  # a reference may name a wheel
    return Path(found[0] if found else report.model.reference).name


def describe_cost(report: Report) -> str:
    """Return the time, tokens and peak memory of training, and the time of the run, as text.

    The result is "" if no steps were taken. The time of a resumed run is omitted.
    """
    if not report.steps:
        return ""
    tokens = sum(step.tokens for step in report.steps.values())
    finished, is_resumed = report.finished, report.started is not None and report.started.resumed
    parts = [
        f"training {format_duration(report.training_seconds)}",
        f"{format_count(tokens, 'token')}",
        f"peak memory {format_bytes(report.peak_memory)}" if report.peak_memory else "",
        f"whole run {format_duration(finished.seconds)}" if finished and not is_resumed else "",
    ]
    return ", ".join(filter(None, parts))


def describe_processes(started: TrainingStarted) -> str:
    """Return text such as "4 processes, weights sharded", or "" for a single process."""
    count, parallel = started.details.get("processes"), started.details.get("parallel")
    if not isinstance(count, int) or count < 2:
        return ""
    how = "weights sharded" if parallel == "sharded" else "a copy of the model in each"
    return f"{count} processes, {how}"


def format_epochs(epochs: float) -> str:
    """Format a number of epochs, such as "1 epoch" or "2.5 epochs"."""
    return "1 epoch" if epochs == 1 else f"{format_rate(epochs)} epochs"


def _peak_rate(rates: list[float]) -> str:
    return f"{format_rate(max(rates))} (peak)" if rates else ""


def format_reproduction(folder: Path) -> str:
    """Return the command that repeats the run from the resolved run file in its folder."""
    return f"tunesmith run {shlex.quote(str(folder.absolute() / 'run.toml'))}"


def describe_gate(gate: GateChecked) -> tuple[str, Rating]:
    """Return the result of a technique's exit criterion as text, with the rating that colors it."""
    if gate.passed:
        return "passed", "good"
    return ("not passed, accepted", "warning") if gate.accepted else ("not passed", "bad")


def describe_data(data: DataLoaded) -> str:
    """Return the numbers of training, validation and test rows as text."""
    validation = format_count(data.validation, "validation row")
    parts = [
        format_count(data.train, "training row"),
        f"{validation} (used to pick settings)" if data.validation else "",
        format_count(data.test, "test row"),
    ]
    return ", ".join(filter(None, parts))
