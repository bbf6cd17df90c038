"""The protocol of monitors, which evaluate the model between steps and may end the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from tunesmith.events import JSON, Event

__all__ = ["MonitorDecision", "TrainingMonitor"]

MonitorDecision = Literal["continue", "save_best", "stop"]
"""What the loop does after an evaluation.

``save_best`` saves the current weights as the best and continues; ``stop`` ends training with the
best weights.
"""


class TrainingMonitor(Protocol):
    """Protocol of a monitor: evaluates between steps, may stop training or repeat a batch."""

    def is_batch_finished(self) -> bool:
        """Return True if the batch needs no further update.

        The loop calls this exactly once after each optimizer step, so implementations may count
        the calls.
        """
        ...

    def evaluate(self, step: int) -> MonitorDecision:
        """Evaluate the model after ``step`` optimizer steps and decide how to continue.

        The loop also calls this before the first step (with 0) and when training is resumed.
        """
        ...

    def state_dict(self) -> JSON:
        """Return the state that a resumed training needs, to be stored in every checkpoint."""
        ...

    def load_state_dict(self, state: JSON) -> None:
        """Restore the state that :meth:`state_dict` returned."""
        ...

    def count_steps(self, planned: int) -> int:
        """Return the number of steps taken: fewer than planned if the monitor ended training."""
        ...

    def results(self) -> Sequence[Event]:
        """Return the events to emit when training is over, such as a final result."""
        ...


class NoMonitor(TrainingMonitor):
    """A monitor that never evaluates: one update per batch, up to the last step."""

    def is_batch_finished(self) -> bool:
        return True

    def evaluate(self, step: int) -> MonitorDecision:
        return "continue"

    def state_dict(self) -> JSON:
        return {}

    def load_state_dict(self, state: JSON) -> None:
        return None

    def count_steps(self, planned: int) -> int:
        return planned

    def results(self) -> Sequence[Event]:
        return ()


NO_MONITOR = NoMonitor()
