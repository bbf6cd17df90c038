"""The report: a fold over a run's events, so that it can be made again from ``events.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tunesmith.events import (
    DataRead,
    Event,
    Forecast,
    Gated,
    Measured,
    ModelRead,
    Noticed,
    RunFinished,
    RunStarted,
    Sampled,
    Saved,
    Stepped,
    Trained,
    TrainingStarted,
    Watched,
)

SCHEMA = "tunesmith.report/1"


@dataclass
class Report:
    """What a run was, did and showed. ``to_json`` gives the content of ``report.json``."""

    started: RunStarted | None = None
    """When the run began, and the plan and versions that it goes by since it was last resumed."""
    data: DataRead | None = None
    model: ModelRead | None = None
    notices: list[Noticed] = field(default_factory=list)
    forecast: Forecast | None = None
    training: dict[str, TrainingStarted] = field(default_factory=dict)
    steps: dict[tuple[str, int], Stepped] = field(default_factory=dict)
    """By stage and step: a step that was taken again after a resume replaces the first."""
    saved: Saved | None = None
    trained: dict[str, Trained] = field(default_factory=dict)
    measured: dict[tuple[str, str, str], Measured] = field(default_factory=dict)
    watched: dict[tuple[str, int], Watched] = field(default_factory=dict)
    """By stage and step."""
    sampled: dict[tuple[str, int, str], Sampled] = field(default_factory=dict)
    """By stage, step and prompt."""
    gates: dict[tuple[str, str], Gated] = field(default_factory=dict)
    """By stage and gate: what was found last."""
    finished: RunFinished | None = None

    @property
    def status(self) -> str:
        """ok, failed, stopped, or unfinished: still running, or killed."""
        return self.finished.status if self.finished else "unfinished"

    def take(self, event: Event) -> None:  # noqa: C901 - one case for each kind of event
        """Fold one event in."""
        match event:
            case RunStarted():
                first = self.started or event
                self.started = replace(event, started=first.started, resumed=first.resumed)
                self.finished = None
            case DataRead():
                self.data = event
            case ModelRead():
                self.model = event
            case Noticed():
                if event not in self.notices:
                    self.notices.append(event)
            case Forecast():
                self.forecast = event
            case TrainingStarted():
                self.training[event.stage] = event
            case Stepped():
                self.steps[event.stage, event.step] = event
            case Saved():
                self.saved = event
            case Trained():
                self.trained[event.stage] = event
            case Measured():
                self.measured[event.model, event.evaluator, event.metric] = event
            case Watched():
                self.watched[event.stage, event.step] = event
            case Sampled():
                self.sampled[event.stage, event.step, event.prompt] = event
            case Gated():
                self.gates[event.stage, event.gate] = event
            case RunFinished():
                self.finished = event
            case _:
                pass

    def to_json(self) -> dict[str, Any]:
        """The report in its documented form, ``tunesmith.report/1``."""
        started, finished = self.started, self.finished
        return {
            "schema": SCHEMA,
            "run": {
                "id": started.run if started else "",
                "name": started.name if started else "",
                "status": self.status,
                "started": started.started if started else None,
                "finished": finished.finished if finished else None,
                "error": finished.error if finished else "",
                "exit_code": finished.exit_code if finished else None,
            },
            "plan": started.plan if started else {},
            "data": self._data(),
            "model": asdict(self.model) if self.model else {},
            "forecast": self._forecast(),
            "training": self._training(""),
            "stages": {stage: self._training(stage) for stage in self.training if stage},
            "evaluations": [_evaluation(event) for event in self.measured.values()],
            "gates": [asdict(gate) for gate in self.gates.values()],
            "verdict": finished.verdict if finished else {},
            "notices": [asdict(notice) for notice in self.notices],
            "versions": started.versions if started else {},
            "plugins": started.plugins if started else [],
        }

    def _data(self) -> dict[str, Any]:
        if self.data is None:
            return {}
        return {
            "description": self.data.description,
            "train": self.data.train,
            "holdout": self.data.heldout,
            "left_out": self.data.left_out,
            "left_out_examples": self.data.examples,
            "fingerprint": self.data.fingerprint,
        }

    @property
    def peak_memory(self) -> int:
        """The most memory that was held at a step or told at the end; 0: nothing is known."""
        told = [step.memory_bytes for step in self.steps.values()]
        return max([*told, *(end.peak_memory_bytes for end in self.trained.values())], default=0)

    @property
    def training_seconds(self) -> float:
        """Seconds of all steps, those before a resume included."""
        return sum(step.seconds for step in self.steps.values())

    def _forecast(self) -> dict[str, Any]:
        """What was foretold, and beside it what came, once training has ended."""
        forecast = self.forecast
        if forecast is None:
            return {}
        actual: dict[str, Any] = {}
        if self.trained.get("") is not None:
            peak = self.peak_memory + forecast.uncounted
            actual = {
                "peak_memory_bytes": self.peak_memory,
                "seconds": self.training_seconds,
                "memory_ratio": peak / forecast.memory["expected"],
                "within": forecast.memory["low"] <= peak <= forecast.memory["high"],
            }
        return {**asdict(forecast), "actual": actual}

    def _training(self, stage: str) -> dict[str, Any]:
        """Figures of one stage, summed over its steps, so that a resumed run counts each once."""
        steps = [event for (name, _), event in sorted(self.steps.items()) if name == stage]
        start, end = self.training.get(stage), self.trained.get(stage)
        if start is None and not stage and self.training:
            # Of a run with stages, the last one stands for the whole.
            last = self._training(list(self.training)[-1])
            return {**last, "artifact": end.artifact if end else None}
        if start is None:
            return {}
        seconds = sum(step.seconds for step in steps)
        tokens = sum(step.tokens for step in steps)
        return {
            "technique": start.technique,
            "steps": len(steps),
            "planned_steps": start.steps,
            "epochs": start.epochs,
            "rows": start.rows,
            "tokens": tokens,
            "trained_tokens": sum(step.trained_tokens for step in steps),
            "seconds": seconds,
            "tokens_per_second": tokens / seconds if seconds else None,
            "peak_memory_bytes": max((step.memory_bytes for step in steps), default=0),
            "trainable_parameters": start.trainable_parameters,
            "parameters": start.parameters,
            "device": start.device,
            "precision": start.precision,
            "details": start.details,
            "losses": [step.loss for step in steps],
            "learning_rates": [step.learning_rate for step in steps],
            "gradient_norms": [step.gradient_norm for step in steps],
            "extras": {name: [step.extras.get(name) for step in steps] for name in _extras(steps)},
            "artifact": end.artifact if end else None,
            "watched": [
                {"step": event.step, "best": event.best, **event.figures}
                for (name, _), event in sorted(self.watched.items())
                if name == stage
            ],
        }


def fold(events: Iterable[Event]) -> Report:
    """The report of a sequence of events."""
    report = Report()
    for event in events:
        report.take(event)
    return report


def _extras(steps: list[Stepped]) -> list[str]:
    return sorted({name for step in steps for name in step.extras})


def _evaluation(event: Measured) -> dict[str, Any]:
    names = ("model", "evaluator", "metric", "value", "low", "high", "n", "higher_is_better")
    record = asdict(event)
    return {**{name: record[name] for name in names}, "unit": event.unit, "records": event.records}
