"""Build the report of a run from its events, live or later from ``events.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tunesmith.events import (
    JSON,
    TUNED,
    BaselineChosen,
    CheckpointSaved,
    CompletionSampled,
    DataLoaded,
    Event,
    FindingReported,
    Forecast,
    GateChecked,
    Measured,
    ModelResolved,
    Monitored,
    PartEnded,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)

SCHEMA = "tunesmith.report/1"
TRAINING_ROWS = "training-rows"
"""Label of the tuned model when it is evaluated on rows that it was trained on."""


@dataclass
class Report:
    """The state of a run, built from its events; ``to_json`` returns ``report.json``."""

    started: RunStarted | None = None
    """The event of the latest attempt, with the time of the first attempt."""
    data: DataLoaded | None = None
    model: ModelResolved | None = None
    findings: list[FindingReported] = field(default_factory=list)
    forecast: Forecast | None = None
    training_started: dict[str, TrainingStarted] = field(default_factory=dict)
    steps: dict[tuple[str, int], StepFinished] = field(default_factory=dict)
    """Optimizer steps by stage and step number; a step repeated after a resume replaces the earlier
    one."""
    trained_on: str = ""
    """Fingerprint of the data at the first training step."""
    last_checkpoint: CheckpointSaved | None = None
    training_finished: dict[str, TrainingFinished] = field(default_factory=dict)
    baselines: dict[str, BaselineChosen] = field(default_factory=dict)
    measured: dict[tuple[str, str, str], Measured] = field(default_factory=dict)
    training_rows: dict[tuple[str, str, str], Measured] = field(default_factory=dict)
    """Results of the tuned model on training rows; separate from ``measured``, because these are
    not test scores."""
    monitored: dict[tuple[str, int], Monitored] = field(default_factory=dict)
    """Evaluations during training, by stage and step number."""
    samples: dict[tuple[str, int, str], CompletionSampled] = field(default_factory=dict)
    """Sampled completions, by stage, step number and prompt."""
    gates: dict[tuple[str, str], GateChecked] = field(default_factory=dict)
    """The latest result of each exit criterion, by stage and criterion."""
    part_seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each part of the run in seconds, summed over all processes."""
    finished: RunFinished | None = None

    @property
    def status(self) -> str:
        """Status: ok, failed, stopped, or unfinished if the run is still running or was killed."""
        return self.finished.status if self.finished else "unfinished"

    @property
    def name(self) -> str:
        """The name of the run, otherwise its id; "run" if it has not started."""
        return (self.started.name or self.started.run) if self.started else "run"

    @property
    def verdict(self) -> JSON:
        """The verdict; empty if the run has no verdict."""
        return self.finished.verdict if self.finished else {}

    @property
    def tuned(self) -> list[Measured]:
        """The tuned model's measurements, one per metric of an evaluator."""
        return [event for event in self.measured.values() if event.model == TUNED]

    def steps_of(self, stage: str) -> list[StepFinished]:
        """Return the steps of a stage, in order."""
        return [event for (name, _), event in sorted(self.steps.items()) if name == stage]

    def monitored_of(self, stage: str) -> list[Monitored]:
        """Return the evaluations during the training of a stage, in order."""
        return [event for (name, _), event in sorted(self.monitored.items()) if name == stage]

    def add_event(self, event: Event) -> None:  # noqa: C901 - one case for each kind of event
        """Update the report with the next event."""
        match event:
            case RunStarted():
                first = self.started or event
                self.started = replace(event, started=first.started, resumed=first.resumed)
                self.finished = None
            case DataLoaded():
                self._set_data(event)
            case ModelResolved():
                self.model = event
            case FindingReported():
                if event not in self.findings:
                    self.findings.append(event)
            case Forecast():
                self.forecast = event
            case TrainingStarted():
                self.training_started[event.stage] = event
            case StepFinished():
                self.steps[event.stage, event.step] = event
                self.trained_on = self.trained_on or (self.data.fingerprint if self.data else "")
            case CheckpointSaved():
                self.last_checkpoint = event
            case TrainingFinished():
                self.training_finished[event.stage] = event
            case BaselineChosen():
                self.baselines[event.baseline] = event
            case Measured():
                measured = self.training_rows if event.model == TRAINING_ROWS else self.measured
                measured[event.model, event.evaluator, event.metric] = event
            case Monitored():
                self.monitored[event.stage, event.step] = event
            case CompletionSampled():
                self.samples[event.stage, event.step, event.prompt] = event
            case GateChecked():
                self.gates[event.stage, event.gate] = event
            case PartEnded():
                earlier = self.part_seconds.get(event.part, 0.0)
                self.part_seconds[event.part] = earlier + event.seconds
            case RunFinished():
                self.finished = event

    def _set_data(self, event: DataLoaded) -> None:
        """Replace the data, and forget results about other rows."""
        if self.data is not None and self.data.fingerprint != event.fingerprint:
            self.baselines.clear()
            self.measured.clear()
            self.training_rows.clear()
        self.data = event
        # The rows may have changed since the run started, so their review follows again.
        self.findings = [finding for finding in self.findings if not finding.test_rows]

    def metric_label(self, evaluator: str, metric: str) -> str:
        """Return a metric's name, prefixed with the evaluator's id if several measure it."""
        return metric_label(self.measured.values(), evaluator, metric)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON, in the documented form ``tunesmith.report/1``."""
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
                "hint": finished.hint if finished else "",
                "exit_code": finished.exit_code if finished else None,
            },
            "plan": started.plan if started else {},
            "data": self._data(),
            "model": asdict(self.model) if self.model else {},
            "forecast": self._forecast(),
            "training": self._training(""),
            "stages": {stage: self._training(stage) for stage in self.training_started if stage},
            "baselines": [asdict(baseline) for baseline in self.baselines.values()],
            "evaluations": [_evaluation(event) for event in self.measured.values()],
            "training_rows": [_evaluation(event) for event in self.training_rows.values()],
            "gates": [asdict(gate) for gate in self.gates.values()],
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "versions": started.versions if started else {},
            "plugins": started.plugins if started else [],
        }

    def _data(self) -> dict[str, Any]:
        if self.data is None:
            return {}
        return {
            "description": self.data.description,
            "train": self.data.train,
            "validation": self.data.validation,
            "test": self.data.test,
            "skipped": self.data.skipped,
            "skipped_examples": self.data.examples,
            "fingerprint": self.data.fingerprint,
        }

    @property
    def peak_memory(self) -> int:
        """The peak memory over all steps and stages, in bytes; 0 if unknown."""
        at_steps = [step.memory_bytes for step in self.steps.values()]
        at_end = [stage.peak_memory_bytes for stage in self.training_finished.values()]
        return max([*at_steps, *at_end], default=0)

    @property
    def training_seconds(self) -> float:
        """The seconds of all steps, including those before a resume."""
        return sum(step.seconds for step in self.steps.values())

    def _forecast(self) -> dict[str, Any]:
        """Return the forecast, plus the measured memory and time once training has finished."""
        forecast = self.forecast
        if forecast is None:
            return {}
        actual: dict[str, Any] = {}
        if self.training_finished.get("") is not None:
            peak = self.peak_memory + forecast.untracked_bytes
            actual = {
                "peak_memory_bytes": self.peak_memory,
                "seconds": self.training_seconds,
                "parts": self.part_seconds,
                "memory_ratio": peak / forecast.memory["expected"],
                "within": forecast.memory["low"] <= peak <= forecast.memory["high"],
            }
        return {**asdict(forecast), "actual": actual}

    def _training(self, stage: str) -> dict[str, Any]:
        """Return the metrics of a stage from its steps, so a resumed run counts each step once."""
        steps = self.steps_of(stage)
        start, end = self.training_started.get(stage), self.training_finished.get(stage)
        if start is None and not stage and self.training_started:
            # A run with stages: report the training of the last stage.
            last = self._training(list(self.training_started)[-1])
            return {**last, "artifact": end.artifact if end else None}
        if start is None:
            return {}
        seconds = sum(step.seconds for step in steps)
        tokens = sum(step.tokens for step in steps)
        metrics = sorted({name for step in steps for name in step.metrics})
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
            "metrics": {name: [step.metrics.get(name) for step in steps] for name in metrics},
            "artifact": end.artifact if end else None,
            "affected_rows": end.affected_rows if end else {},
            "monitored": [
                {"step": event.step, "best": event.best, **event.metrics}
                for event in self.monitored_of(stage)
            ],
        }


def build_report(events: Iterable[Event]) -> Report:
    """Build the report of a sequence of events."""
    report = Report()
    for event in events:
        report.add_event(event)
    return report


def metric_label(measured: Iterable[Measured], evaluator: str, metric: str) -> str:
    """Return a metric's name, prefixed with the evaluator's id if several measure it."""
    measuring = {event.evaluator for event in measured if event.metric == metric}
    return f"{evaluator}: {metric}" if len(measuring) > 1 else metric


def _evaluation(event: Measured) -> dict[str, Any]:
    return {name: value for name, value in asdict(event).items() if name != "seconds"}
