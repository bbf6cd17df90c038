"""Fold the events of one run into what the screens show, in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.events import (
    JSON,
    TUNED,
    Event,
    FindingReported,
    Measured,
    RunFinished,
    RunStarted,
    TrainingFinished,
    TrainingStarted,
    from_json,
)  # fmt: skip
from tunesmith.execution.report import Report
from tunesmith.storage import LockHolder, is_inside
from tunesmith.storage.atomic import decode_json
from tunesmith_evidence.report.first_batch import FirstBatch
from tunesmith_tui.event_tail import EventTail
from tunesmith_tui.series import Series

MAX_STAGES, MAX_METRICS, MAX_FINDINGS, MAX_PHASES, MAX_LATEST = 12, 24, 200, 40, 1_000
LOSS, RATE, NORM, SPEED, MEMORY = (
    "loss", "learning rate", "gradient norm", "tokens per second", "memory",
)  # fmt: skip
MAIN_CURVES = (LOSS, SPEED, MEMORY, NORM, RATE)
"""The curves of every technique, those that are looked at most first."""


@dataclass
class Stage:
    """The training of a stage so far: curves, tokens, seconds and step."""

    curves: dict[str, Series] = field(default_factory=dict)
    """Curves over the steps by name, those of :data:`MAIN_CURVES` first."""
    monitored: dict[str, Series] = field(default_factory=dict)
    """Evaluations during training, by metric."""
    tokens: int = 0
    seconds: float = 0.0
    latest: deque[tuple[int, int, float]] = field(default_factory=lambda: deque(maxlen=MAX_LATEST))
    """Number, tokens and seconds of the latest steps, which a resumed run may repeat."""
    memory: int = 0
    """The highest memory of any step, in bytes."""
    step: int = 0
    steps: int = 0

    def add_step(self, event: JSON) -> None:
        """Add an optimizer step."""
        step, seconds, tokens = int(event["step"]), float(event["seconds"]), int(event["tokens"])
        loss, rate = float(event["loss"]), float(event["learning_rate"])
        norm, memory = float(event["gradient_norm"]), int(event["memory_bytes"])
        values = {LOSS: loss, SPEED: tokens / seconds if seconds > 0 else 0.0}
        values |= {MEMORY: memory, NORM: norm, RATE: rate}
        if metrics := event.get("metrics"):
            values |= metrics
        self.step, self.steps = step, int(event["steps"])
        self.memory = max(self.memory, memory)
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds
        self.latest.append((step, tokens, seconds))
        add_values(self.curves, step, values)

    def rewind(self, step: int) -> None:
        """Forget the steps after this one, which a resumed run repeats."""
        self.step = min(self.step, step)
        while self.latest and self.latest[-1][0] > step:
            _, tokens, seconds = self.latest.pop()
            self.tokens, self.seconds = self.tokens - tokens, self.seconds - seconds
        for series in (*self.curves.values(), *self.monitored.values()):
            series.rewind(step)


def add_values(curves: dict[str, Series], step: int, values: JSON) -> None:
    """Add the values of a step to the curves of the same names."""
    for name, value in values.items():
        series = curves.get(name)
        if series is None:
            if len(curves) >= MAX_METRICS:
                continue
            series = curves[str(name)] = Series()
        series.add(step, float(value))


class RunState:
    """A run as its log describes it. :meth:`advance` reads what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder_name = path.name
        """The folder's name, with its parent's if another listed folder has the same."""
        self.tail = EventTail(path / "events.jsonl")
        self.holder: LockHolder | None = None
        """The process that writes to the run, if it may be alive."""
        self.is_gone = False
        self._reset()

    def _reset(self) -> None:
        self.report = Report()
        """The report without steps, evaluations during training and findings."""
        self.stages: dict[str, Stage] = {}
        self.findings: list[FindingReported] = []
        self.validation: list[Measured] = []
        """Scores of the tuned model on validation rows, as in the trials of a search."""
        self.phases: list[tuple[str, float]] = []
        """Name and seconds of the latest finished phases."""
        self.phase = ""
        """Name of the phase in progress; empty between two phases."""
        self.first_batches: dict[str, FirstBatch] = {}
        self.lines = 0
        self.damaged: list[int] = []
        """Numbers of the first lines that could not be read."""
        self.damaged_count = 0

    @property
    def name(self) -> str:
        """The name of the run, otherwise its folder's name."""
        name = self.report.started.name if self.report.started else self.path.name
        return self.folder_name if name == self.path.name else name

    @property
    def status(self) -> str:
        """The status: ok, failed, stopped, running, unfinished, gone, or reading."""
        if self.is_gone:
            return "gone"
        if self.report.finished is None and self.holder is not None:
            return "running"
        return "reading" if self.tail.is_behind else self.report.status

    @property
    def plan(self) -> JSON:
        """The plan that the run was started with, or an empty one."""
        return self.report.started.plan if self.report.started else {}

    @property
    def seconds(self) -> float:
        """Seconds of the finished parts or of the training so far, whichever is more."""
        parts = sum(self.report.part_seconds.values())
        return max(parts, self.training_seconds)

    @property
    def training_seconds(self) -> float:
        """The seconds of all steps; a step that a resumed run repeats counts once."""
        return sum(stage.seconds for stage in self.stages.values())

    @property
    def tokens(self) -> int:
        """The tokens of all steps; a step that a resumed run repeats counts once."""
        return sum(stage.tokens for stage in self.stages.values())

    @property
    def peak_memory(self) -> int:
        """The highest memory of any step or stage, in bytes; 0 if unknown."""
        steps = [stage.memory for stage in self.stages.values()]
        ends = [event.peak_memory_bytes for event in self.report.training_finished.values()]
        return max([*steps, *ends], default=0)

    @property
    def current_stage(self) -> tuple[str, Stage] | None:
        """The name of the latest stage, and the stage; None before training."""
        return list(self.stages.items())[-1] if self.stages else None

    @property
    def score(self) -> Measured | None:
        """The tuned model's score by the verdict's metric, otherwise its first score."""
        verdict = self.report.verdict
        key = (verdict.get("evaluator"), verdict.get("metric"))
        tuned = self.report.tuned or self.validation
        decisive = (event for event in tuned if (event.evaluator, event.metric) == key)
        return next(decisive, tuned[0] if tuned else None)

    def check(self) -> bool:
        """Look if the log has grown, and who writes it. Return True if anything changed."""
        before, is_new = self.status, self.tail.check()
        if is_new:
            self._reset()
        self.is_gone = not self.tail.exists and not self.path.is_dir()
        self.holder = None
        if self.report.finished is None and not self.is_gone:
            holder = LockHolder.read(self.path)
            self.holder = holder if holder and holder.may_be_alive() else None
        return is_new or self.tail.is_behind or before != self.status

    def advance(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the log chunk by chunk, until its end or the deadline."""
        while self.tail.is_behind:
            for line in self.tail.read():
                self.lines += 1
                try:
                    self._add(decode_json(line))
                except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
                    self.damaged_count += 1
                    self.damaged = [*self.damaged, self.lines][:3]
            if clock() >= deadline:
                return

    def _add(self, event: JSON) -> None:
        match event["event"]:
            case "step-finished":
                self._stage(event).add_step(event)
            case "monitored":
                add_values(self._stage(event).monitored, int(event["step"]), event["metrics"])
            case "phase-started":
                self.phase = str(event["phase"])
            case "phase-ended":
                ended = (str(event["phase"]), float(event["seconds"]))
                self.phases, self.phase = [*self.phases, ended][-MAX_PHASES:], ""
            case "completion-sampled" | "phase-advanced" | "stepped":
                pass
            case _:
                self._add_to_report(event)

    def _stage(self, event: JSON) -> Stage:
        name = str(event.get("stage", ""))
        if name not in self.stages and len(self.stages) >= MAX_STAGES:
            raise ValueError("too many stages")
        return self.stages.setdefault(name, Stage())

    def _add_to_report(self, line: JSON) -> None:
        paths = (line[key] for key in ("artifact", "records") if key in line)
        if not all(isinstance(path, str) and is_inside(path) for path in paths):
            raise ValueError("refers to a file outside the run folder")
        event = from_json(line)  # None for an event of a plugin that is not installed
        match event:
            case FirstBatch():
                self.first_batches.setdefault(event.stage, event)
            case FindingReported():
                if len(self.findings) < MAX_FINDINGS and event not in self.findings:
                    self.findings.append(event)
            case Measured(part="validation"):
                if event.model == TUNED and len(self.validation) < MAX_METRICS:
                    self.validation.append(event)
            case Event():
                self.report.add_event(event)
        self._update_progress(event)

    def _update_progress(self, event: Event | None) -> None:
        match event:
            case TrainingStarted():
                stage = self._stage({"stage": event.stage})
                stage.steps = event.steps
                stage.rewind(event.first_step)
            case TrainingFinished():  # it may have stopped early
                for stage in self.stages.values():
                    stage.steps = stage.step
            case RunStarted() | RunFinished():
                self.phase = ""
