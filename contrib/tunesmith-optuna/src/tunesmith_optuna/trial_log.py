"""Read the events of a trial while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.events import JSON, TUNED
from tunesmith.storage.atomic import decode_json

VALIDATION_LOSS = "validation_loss"
TENTHS = 10
"""Trials are compared at the same tenth of their training, because step counts may differ."""


@dataclass(frozen=True)
class ValidationPoint:
    """The validation loss at a training step."""

    step: int
    steps: int
    loss: float

    @property
    def tenth(self) -> int:
        """The tenth of the training that this step is in, from 1 to 10."""
        return max(1, -(-TENTHS * self.step // self.steps))


@dataclass
class TrialLog:
    """The state of a trial according to its events. Each call of :meth:`read` updates it."""

    folder: Path
    step: int = 0
    steps: int = 0
    loss: float | None = None
    """Training loss of the newest step."""
    evaluations: dict[int, ValidationPoint] = field(default_factory=dict)
    """Evaluations by step, without those before the first step."""
    measured: dict[tuple[str, str], JSON] = field(default_factory=dict)
    """Events of the trained model's metrics, by evaluator and metric."""
    finished: JSON | None = None
    """Event at the end of the run, or None while the run is active (even after a resume)."""
    seconds: float = 0.0
    """Total time of those processes of the run that ended properly."""
    _offset: int = 0

    @property
    def validation_loss(self) -> float | None:
        """The newest validation loss, or None before the first evaluation."""
        return list(self.evaluations.values())[-1].loss if self.evaluations else None

    @property
    def status(self) -> str:
        """The status of the run: ok, failed, stopped or unfinished."""
        return str(self.finished["status"]) if self.finished else "unfinished"

    def read(self) -> None:
        """Read the events since the last call, leaving an incomplete line for the next call."""
        path = self.folder / "events.jsonl"
        if not path.is_file():
            return
        with path.open("rb") as file:
            if path.stat().st_size < self._offset:  # A resumed run has removed an incomplete line.
                self._offset = 0
            file.seek(self._offset)
            new = file.read()
        whole, _, _ = new.rpartition(b"\n")
        self._offset += len(whole) + bool(whole)
        for line in whole.splitlines():
            self._add(decode_json(line))

    def _add(self, event: JSON) -> None:
        match event.get("event"):
            case "run-started":
                self.finished = None
            case "training-started":
                self.steps = event["steps"]
            case "step-finished":
                self.step, self.steps, self.loss = event["step"], event["steps"], event["loss"]
            case "monitored" if event["step"] and VALIDATION_LOSS in event["metrics"]:
                loss = float(event["metrics"][VALIDATION_LOSS])
                self.evaluations[event["step"]] = ValidationPoint(event["step"], self.steps, loss)
            case "measured" if event["model"] == TUNED:
                self.measured[event["evaluator"], event["metric"]] = event
            case "run-finished":
                self.finished = event
                self.seconds += event["seconds"]
            case _:
                pass
