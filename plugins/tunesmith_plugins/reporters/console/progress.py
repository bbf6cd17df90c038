"""Track the progress of a phase, a training stage and a run, and estimate the time left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.events import (
    TUNED,
    BaselineChosen,
    DataLoaded,
    Event,
    Forecast,
    GateChecked,
    Measured,
    ModelResolved,
    Monitored,
    PartEnded,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.options import DEFAULT_BASELINE_ROWS
from tunesmith.storage import read_known_events

LOSS_DECAY = 0.9
"""Decay per step of the exponential moving average of the loss."""
SPEED_DECAY = 0.95
"""Decay per step of the moving averages of time and tokens; high, for a steady estimate."""
SETTLED = 0.05
"""Share of a phase that must be done before a time left is shown."""
Seconds = tuple[float, float]
"""The shortest and the longest time."""
UNKNOWN: Seconds = (math.nan, math.nan)
SPREAD: Seconds = (0.8, 1.3)
"""Lowest and highest ratio of the actual time to the time predicted from measured speeds."""
SPREAD_LATER: Seconds = (0.4, 1.4)
"""These ratios for the tuned model, predicted from the base model, whose answers are longer."""
VALIDATION_LOSS = "validation_loss"


@dataclass
class PhaseProgress:
    """Tracks how many units of a phase are done, and the time per unit.

    The first unit does not count toward the speed. It takes longer, because caches are filled, code
    is compiled, and the other units in its batch start at the same time.
    """

    total: int | None
    started: float
    """Start of the phase in seconds; any clock will do."""
    done: int = 0
    _first: tuple[int, float] | None = None

    def advance(self, done: int, now: float) -> None:
        """Set the number of units done so far."""
        self.done = done
        if self._first is None and done > 0:
            self._first = done, now

    def seconds_per_unit(self, now: float) -> float:
        """Return the mean seconds per unit so far, or NaN if fewer than two units are done."""
        if self._first is None or self.done <= self._first[0]:
            return math.nan
        return (now - self._first[1]) / (self.done - self._first[0])

    def seconds_left(self, now: float) -> float:
        """Return the estimated seconds left in the phase, or NaN if it is too early to say."""
        if not self.total or self.done < SETTLED * self.total:
            return math.nan
        return max(0, self.total - self.done) * self.seconds_per_unit(now)


@dataclass
class TrainingProgress:
    """Tracks moving averages over training steps: loss, speed and time left."""

    losses: list[float] = field(default_factory=list)
    """The loss of each step, including those before the run was resumed."""
    validation_losses: list[float] = field(default_factory=list)
    last: StepFinished | None = None
    _loss: float = 0.0
    _loss_weight: float = 0.0
    _seconds: float = 0.0
    _tokens: float = 0.0
    _speed_weight: float = 0.0
    _timed_steps: int = 0
    _overhead: float = 0.0

    def add(self, step: StepFinished) -> None:
        """Update the moving averages with a training step."""
        self.last = step
        self._add_loss(step.loss)
        if self._timed_steps == 1:
            # The first step in a process compiles and allocates, so it counts only until there is
            # a second.
            self._seconds = self._tokens = self._speed_weight = 0.0
        self._timed_steps += 1
        self._seconds = SPEED_DECAY * self._seconds + (1 - SPEED_DECAY) * max(0.0, step.seconds)
        self._tokens = SPEED_DECAY * self._tokens + (1 - SPEED_DECAY) * step.tokens
        self._speed_weight = SPEED_DECAY * self._speed_weight + (1 - SPEED_DECAY)

    def add_overhead(self, seconds: float) -> None:
        """Add time spent between steps, for example on a checkpoint."""
        self._overhead += max(0.0, seconds) if math.isfinite(seconds) else 0.0

    def _add_loss(self, loss: float) -> None:
        self.losses.append(loss)
        if math.isfinite(loss):
            self._loss = LOSS_DECAY * self._loss + (1 - LOSS_DECAY) * loss
            self._loss_weight = LOSS_DECAY * self._loss_weight + (1 - LOSS_DECAY)

    @property
    def first_loss(self) -> float:
        """The loss of the first step, or NaN before the first step."""
        return self.losses[0] if self.losses else math.nan

    @property
    def loss(self) -> float:
        """The smoothed loss, bias-corrected as in Adam, or NaN before the first step."""
        return self._loss / self._loss_weight if self._loss_weight else math.nan

    @property
    def tokens_per_second(self) -> float:
        """The smoothed training speed, or 0 if it is unknown."""
        return self._tokens / self._seconds if self._seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """The estimated seconds for the remaining steps at the recent speed, or NaN if unknown."""
        if self.last is None or not self._speed_weight:
            return math.nan
        step = self._seconds / self._speed_weight + self._overhead / self._timed_steps
        return max(0, self.last.steps - self.last.step) * step


def restore_progress(log: Path, started: TrainingStarted) -> TrainingProgress:
    """Return the progress of a stage, with the losses that were logged before a resume.

    Args:
        log: the run's ``events.jsonl``.
        started: the start of the stage; ``first_step`` is the number of steps done before it.
    """
    progress = TrainingProgress()
    if not started.first_step or not log.is_file():
        return progress
    losses, validation = dict[int, float](), dict[int, float]()
    for event in read_known_events(log):
        if isinstance(event, StepFinished) and event.stage == started.stage:
            losses[event.step] = event.loss
        elif isinstance(event, Monitored) and event.stage == started.stage:
            validation[event.step] = event.metrics.get(VALIDATION_LOSS, math.nan)
    for step in sorted(step for step in losses if step <= started.first_step):
        progress._add_loss(losses[step])
    progress.validation_losses += [
        validation[step]
        for step in sorted(validation)
        if step <= started.first_step and math.isfinite(validation[step])
    ]
    return progress


@dataclass
class RunProgress:
    """Tracks which part of the run is active, and estimates the time until its end.

    The parts are: data, data checks, baselines, training (in stages), and evaluation of the
    tuned model. The estimate is a range that combines four sources. The most accurate one is last:

    * the forecast of each part,
    * the time of baselines per validation row,
    * the time of baselines that were measured on the same rows,
    * the speed of the running phase.
    """

    started: float
    """Start of the run in seconds; any clock will do."""
    stages: list[str] = field(default_factory=list)
    gates: dict[str, bool] = field(default_factory=dict)
    """For each stage with gates, True if all gates passed or were accepted."""
    finished: set[str] = field(default_factory=set)
    part: str = ""
    """The part that is running; "" before the run starts and after it has ended."""
    trains: bool = True
    """False if the run ends after its baselines."""
    forecast: Seconds = UNKNOWN
    """Seconds of the whole run, as predicted before the baselines."""
    _parts: dict[str, Seconds] = field(default_factory=dict)
    _part_started: float = math.nan
    _baselines: dict[str, float] = field(default_factory=dict)
    """Predicted seconds of each baseline that is still to be measured, or NaN if unknown."""
    _rows: int = 0
    """Maximum number of test rows for baselines that ask the model, or 0 for all of them."""
    _phase: tuple[str, str] = "", ""
    """The model and the evaluator that are being measured."""
    _phase_started: float = math.nan
    _measured: int = 0
    _measuring: float = 0.0
    _evaluation: dict[str, float] = field(default_factory=dict)
    """Predicted seconds for evaluating the tuned model, by evaluator and metric."""
    _test: int = 0
    _share: float = 0.0

    def add(self, event: Event, now: float) -> None:  # noqa: C901 - one case for each kind of event
        """Update the active part and the estimates with the next event."""
        match event:
            case RunStarted():
                self.started, self.part = now, "data"
                self.stages = find_stages(event.plan)
                self._rows = find_baseline_rows(event.plan)
                self.trains = event.trains
            case DataLoaded():
                self._test, self.part = event.test, "data checks"
            case Forecast():
                self._add_forecast(event, now)
            case ModelResolved():
                self._start_part("baselines", now)
            case PartEnded(part="baselines"):
                self._start_part("training", now)
            case PartEnded(part="training") | TrainingFinished(stage=""):
                self._start_part("evaluation", now)
            case RunFinished():
                self.part = ""
            case BaselineChosen() if not event.skipped:
                self._baselines[event.baseline] = self._predict_baseline(event)
            case PhaseStarted():
                model, _, evaluator = event.phase.partition(": ")
                self._phase, self._phase_started = (model, evaluator), now
            case Measured():
                self._add_measured(event)
            case TrainingStarted():
                self._start_training(event, now)
            case TrainingFinished():
                self.finished.add(event.stage)
            case GateChecked():
                is_fine = event.passed or event.accepted
                self.gates[event.stage] = self.gates.get(event.stage, True) and is_fine
            case _:
                pass

    def restore(self, log: Path, now: float) -> None:
        """Restore the state of a resumed run's earlier processes from the run's log."""
        events = list(read_known_events(log)) if log.is_file() else []
        began = now
        for event in events:
            if isinstance(event, RunFinished):
                self.share(began, self.seconds_left(began, math.nan))
            elif isinstance(event, RunStarted) and event.resumed:
                continue
            elif isinstance(event, PhaseEnded | StepFinished):
                began += event.seconds
            self.add(event, began)
        elapsed, self.part = began - now, "data"
        self.started, self._part_started = now - elapsed, now

    def _start_part(self, part: str, now: float) -> None:
        if self.part != part:
            self.part, self._part_started = part, now

    def _start_training(self, event: TrainingStarted, now: float) -> None:
        self._start_part("training", now)
        if event.first_step and "training" in self._parts:
            left = 1 - event.first_step / event.steps
            low, high = self._parts["training"]
            self._parts["training"] = low * left, high * left
        if event.stage and event.stage not in self.stages:
            self.stages.append(event.stage)

    def _add_forecast(self, event: Forecast, now: float) -> None:
        parts = {"training": event.seconds, **event.parts}
        self._parts = {part: (low, high) for part, (low, high) in parts.items() if high > 0}
        elapsed = now - self.started
        if event.parts:
            low, high = map(sum, zip(*self._parts.values(), strict=True))
            self.forecast = elapsed + low, elapsed + high

    def _add_measured(self, event: Measured) -> None:
        key = f"{event.evaluator}\n{event.metric}"
        if event.model == TUNED:
            self._evaluation[key] = 0.0
        elif self.part == "baselines":
            self._baselines.pop(event.model, None)
            self._measured += 1
            self._measuring += event.seconds
            rows = self._test / max(event.n, 1)
            # The tuned model takes as long as the base model. Classifiers are much faster, so
            # their times are not used.
            seconds = event.seconds * rows if event.model == "zero-shot" else 0.0
            self._evaluation[key] = max(self._evaluation.get(key, 0.0), seconds)

    def _predict_baseline(self, event: BaselineChosen) -> float:
        """Predict a baseline's seconds on the test rows from its speed on validation rows."""
        chosen = next((v for v in event.variants if v["name"] == event.variant), None)
        if chosen is None or not chosen.get("rows"):
            return math.nan
        rows = self._test
        if event.solution in ("prompt", "retrieval"):
            rows = min(event.test_rows or self._rows or rows, rows)
        return float(chosen["seconds"] / chosen["rows"]) * rows

    def _baselines_left(self, now: float, current: float) -> Seconds:
        """Return the estimated seconds for the remaining baselines."""
        if not self._baselines and not self._measured:  # the variants are being compared
            return self._rest_of("baselines", now)
        left, mean = 0.0, self._measuring / self._measured if self._measured else math.nan
        for name, predicted in self._baselines.items():
            seconds = predicted if math.isfinite(predicted) else mean
            left += self._shorten(seconds, now, current) if name == self._phase[0] else seconds
        return _widen(left) if math.isfinite(left) else self._rest_of("baselines", now)

    def _evaluation_left(self, now: float, current: float) -> Seconds:
        """Return the estimated seconds for the remaining evaluations of the tuned model."""
        known = self._evaluation
        here = [key for key in known if key.startswith(f"{self._phase[1]}\n")]
        others = sum(seconds for key, seconds in known.items() if key not in here)
        if not any(known.values()) and not math.isfinite(current):
            is_running = self.part == "evaluation"
            return self._rest_of("evaluation", now if is_running else math.nan)
        if self._phase[0] != TUNED:
            return _widen(sum(known.values()), later=True)
        if not here:  # an earlier process measured the baselines, so their times are not known
            return _widen(others + current)
        return _widen(others + self._shorten(sum(known[key] for key in here), now, current))

    def _shorten(self, seconds: float, now: float, current: float) -> float:
        """Return ``current`` if known, else ``seconds`` minus the time since the phase began."""
        if math.isfinite(current):
            return current
        return _subtract(seconds, now - self._phase_started)

    def _rest_of(self, part: str, now: float = math.nan) -> Seconds:
        """Return the forecast of a part, minus the time since its start (NaN if not started)."""
        low, high = self._parts.get(part, UNKNOWN)
        elapsed = now - self._part_started
        if math.isnan(elapsed):
            return low, high
        return max(low - elapsed, 0.0), _subtract(high, elapsed)

    def seconds_left(self, now: float, current: float) -> Seconds:
        """Return the estimated seconds until the end of the run, or NaN if it is too early to say.

        ``current`` is the estimate for the rest of the running phase or training stage, or NaN if
        it is unknown.
        """
        evaluation = self._evaluation_left(math.nan, math.nan)
        match self.part:
            case "baselines":
                later = [self._rest_of("training"), evaluation] if self.trains else []
                return _add(self._baselines_left(now, current), *later)
            case "training":
                left = self._rest_of("training", now)
                if math.isfinite(current) and len(self.finished) + 1 >= len(self.stages):
                    left = _widen(current)
                elif math.isfinite(current):  # the forecast covers later stages
                    left = max(current, left[0]), max(current, left[1])
                return _add(left, evaluation)
            case "evaluation":
                return self._evaluation_left(now, current)
            case _:
                return UNKNOWN

    def share(self, now: float, left: Seconds) -> float:
        """Return the share of the run that is done, from 0 to 0.99. It never decreases."""
        elapsed, middle = now - self.started, sum(left) / 2
        if math.isfinite(middle) and elapsed + middle > 0:
            self._share = max(self._share, min(0.99, elapsed / (elapsed + middle)))
        return self._share


def _subtract(seconds: float, elapsed: float) -> float:
    """Return the seconds left of a prediction, for work whose progress is not counted.

    If the work takes longer than predicted, its end is unknown, so the result does not reach 0.
    """
    return max(seconds - elapsed, seconds / 4, elapsed / 2)


def _widen(seconds: float, *, later: bool = False) -> Seconds:
    """Return the range of a prediction from measured speeds, wider for another model's speed."""
    low, high = SPREAD_LATER if later else SPREAD
    return seconds * low, seconds * high


def _add(*ranges: Seconds) -> Seconds:
    low, high = map(sum, zip(*ranges, strict=True))
    return low, high


def find_stages(plan: dict[str, Any]) -> list[str]:
    """Return the technique's stages in order, which are its option tables with ``skip = false``."""
    technique = plan.get("technique", {})
    tables = technique.items() if isinstance(technique, dict) else ()
    return [
        name for name, table in tables if isinstance(table, dict) and table.get("skip") is False
    ]


def find_baseline_rows(plan: dict[str, Any]) -> int:
    """Return the maximum test rows for baselines that query the model, or 0 for all rows."""
    baselines = plan.get("baselines", {})
    rows = baselines.get("rows") if isinstance(baselines, dict) else None
    return rows if isinstance(rows, int) else DEFAULT_BASELINE_ROWS


def describe_path(run: RunProgress, current: str, marks: Sequence[str]) -> str:
    """Format the stages as a path with the results of their gates: "✓ reward (gate passed) → ...".

    marks: four texts: the marks of a finished, the current and a later stage, and the arrow.
    """
    done, here, later, arrow = marks
    parts = []
    for stage in run.stages:
        mark = done if stage in run.finished else here if stage == current else later
        gate = run.gates.get(stage)
        text = "" if gate is None else " (gate passed)" if gate else " (gate not passed)"
        parts.append(f"{mark} {stage}{text}")
    return f" {arrow} ".join(parts)
