"""The events of a sample run, for tests of reporters and other code that reads events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tunesmith.contracts import Reporter
from tunesmith.errors import EnvironmentProblem
from tunesmith.events import (
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
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)

AnyEvent = TypeVar("AnyEvent", bound=Event)


def sample_event(kind: type[AnyEvent], text: str = "sample", **fields: Any) -> AnyEvent:
    """Return a sample event of this kind, as if a run of two steps had emitted it.

    Args:
        text: replaces every name or message that users, models or plugins may write.
        fields: values for fields of the event, which replace those of the sample.
    """
    return kind(**{**_sample_fields(text)[kind], **fields})


def sample_run(
    text: str = "sample", *, steps: int = 2, total: int | None = 120, status: str = "ok"
) -> Iterator[Event]:
    """Yield the events of a complete run, with at least one of every kind.

    Args:
        text: used for every name or message that users, models or plugins may write, including the
            evaluator's name.
        total: the size of phases; None if unknown.
        status: how the run ends.
    """

    def sample(kind: type[Event], **fields: Any) -> Event:
        return sample_event(kind, text, **fields)

    yield sample(RunStarted)
    yield sample(PhaseStarted, phase="data", total=None)
    yield sample(PhaseEnded, phase="data", seconds=0.1)
    yield sample(DataLoaded)
    yield sample(FindingReported)
    yield sample(Forecast, steps=steps)
    yield sample(ModelResolved)
    yield sample(BaselineChosen)
    yield sample(PhaseStarted, total=total)
    yield sample(PhaseAdvanced)
    yield sample(PhaseEnded)
    yield sample(Measured, model="zero-shot", value=0.03, low=0.01, high=0.07)
    yield sample(PartEnded)
    yield sample(TrainingStarted, steps=steps)
    for step in range(1, steps + 1):
        yield sample(StepFinished, step=step, steps=steps, loss=2.0 / step)
    yield sample(CompletionSampled, step=steps)
    yield sample(Monitored, step=steps)
    yield sample(CheckpointSaved, step=steps)
    yield sample(TrainingFinished, steps=steps)
    yield sample(GateChecked)
    for model in ("random-shots", "tuned"):
        yield sample(Measured, model=model)
    failure = {"exit_code": 5, "verdict": {}, "error": text}
    yield sample(RunFinished, status=status, **({} if status == "ok" else failure))


def send_events(build: Callable[[], Reporter], events: Iterable[Event]) -> list[str]:
    """Build a reporter and send it events as a run does; return the problems that it raises."""
    problems = []
    try:
        with build() as reporter:
            for event in events:
                try:
                    reporter.report(event)
                except EnvironmentProblem as problem:
                    problems.append(str(problem))
    except EnvironmentProblem as problem:
        problems.append(str(problem))
    return problems


def _sample_fields(text: str) -> dict[type[Event], dict[str, Any]]:
    """Return the fields of a sample event of each kind."""
    parts = (_run_fields, _input_fields, _training_fields, _evaluation_fields)
    return {kind: fields for part in parts for kind, fields in part(text).items()}


def _run_fields(text: str) -> dict[type[Event], dict[str, Any]]:
    return {
        RunStarted: {
            "run": "run-1",
            "name": text,
            "started": "2026-01-01T00:00:00+00:00",
            "plan": {"model": {"base": text, "revision": None}, "technique": {"use": [text]}},
            "versions": {"torch": text},
            "plugins": [{"name": text, "distribution": text, "version": "1"}],
        },
        PhaseStarted: {"phase": f"zero-shot: {text}", "total": 120},
        PhaseAdvanced: {"phase": f"zero-shot: {text}", "done": 60},
        PhaseEnded: {"phase": f"zero-shot: {text}", "seconds": 12.0},
        PartEnded: {"part": "baselines", "seconds": 30.0},
        FindingReported: {"level": "warning", "source": "data", "message": text},
        RunFinished: {
            "status": "ok",
            "exit_code": 0,
            "finished": "2026-01-01T00:01:02+00:00",
            "seconds": 62.0,
            "verdict": {"outcome": "unclear", "sentence": text},
        },
    }


def _input_fields(text: str) -> dict[type[Event], dict[str, Any]]:
    return {
        DataLoaded: {
            "description": text,
            "train": 240,
            "test": 120,
            "skipped": {text: 2},
            "examples": [{"where": text, "cause": text, "detail": text}],
            "fingerprint": "0" * 64,
        },
        ModelResolved: {
            "reference": text,
            "description": text,
            "files": {"config.json": "0" * 64},
        },
        Forecast: {
            "technique": text,
            "method": "traced",
            "device": text,
            "device_type": "cpu",
            "available": None,
            "memory": {"low": 900, "expected": 1100, "high": 1300},
            "phase": text,
            "uncalibrated_peak": 1100,
            "untracked_bytes": 0,
            "calibration_runs": 0,
            "seconds": [1.0, 2.0],
            "parts": {"baselines": [20.0, 40.0], "training": [1.0, 2.0], "evaluation": [9.0, 11.0]},
            "uncalibrated_parts": {"baselines": 30.0, "evaluation": 10.0},
            "flops": 1e9,
            "steps": 2,
            "tokens": 2000,
            "notes": [text],
        },
    }


def _training_fields(text: str) -> dict[type[Event], dict[str, Any]]:
    counts = {"tokens": 1000, "trained_tokens": 10}
    return {
        TrainingStarted: {
            "technique": text,
            "steps": 2,
            "epochs": 1.0,
            "rows": 240,
            **counts,
            "trainable_parameters": 5,
            "parameters": 50,
            "device": "cpu",
            "precision": "fp32",
            "details": {text: [text]},
        },
        StepFinished: {
            "step": 1,
            "steps": 2,
            "loss": 2.0,
            "learning_rate": 1e-3,
            "gradient_norm": 1.0,
            "rows": 4,
            **counts,
            "seconds": 0.5,
            "memory_bytes": 2 * 1024**3,
            "metrics": {text: 0.5},
        },
        CheckpointSaved: {
            "step": 1,
            "path": "checkpoints/step-00000001",
            "bytes": 10,
            "seconds": 0.1,
        },
        TrainingFinished: {
            "technique": text,
            "steps": 2,
            **counts,
            "seconds": 50.0,
            "peak_memory_bytes": 2 * 1024**3,
            "artifact": "adapter",
            "format": "adapter",
        },
    }


def _evaluation_fields(text: str) -> dict[type[Event], dict[str, Any]]:
    return {
        BaselineChosen: {
            "baseline": "random-shots",
            "variant": text,
            "solution": "prompt",
            "cost": 100,
            "evaluator": text,
            "metric": text,
            "validation_score": 0.5,
            "validation_rows": 40,
            "variants": [{"name": text, "score": 0.5, "rows": 40, "seconds": 2.0, "reason": ""}],
            "seconds": 2.0,
        },
        Measured: {
            "model": "tuned",
            "evaluator": text,
            "metric": text,
            "value": 0.75,
            "low": 0.65,
            "high": 0.85,
            "n": 120,
            "higher_is_better": True,
            "seconds": 12.0,
            "records": "evaluations/sample.jsonl",
        },
        Monitored: {"step": 1, "metrics": {text: 0.3, "gold": 1.0}, "best": True},
        CompletionSampled: {"step": 1, "prompt": text, "completion": text, "reward": 0.625},
        GateChecked: {
            "gate": text,
            "passed": False,
            "message": text,
            "accepted": True,
            "metrics": {"kl": 1.0},
        },
    }
