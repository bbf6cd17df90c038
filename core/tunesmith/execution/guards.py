"""Guards end a run when its events show that it cannot succeed or has reached a limit.

A guard reads the events in order and keeps the state that it needs. It returns an error if the run
should end, otherwise None. The training loop itself checks that each loss is finite before the
optimizer step; guards find problems that only become visible over several steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from tunesmith.errors import RunStopped, TrainingError, TunesmithError
from tunesmith.events import Event, StepFinished

PATIENCE = 20
"""Number of consecutive bad steps after which a guard ends the run."""


class Guard(Protocol):
    """Checks the events of a run, in order."""

    def check(self, event: Event) -> TunesmithError | None:
        """Return the error that ends the run, or None to continue."""
        ...


@dataclass
class DivergenceGuard:
    """Ends a run whose loss stays above 0.5 and ``factor`` times its best for 20 steps in a row."""

    factor: float = 3.0
    best_loss: float = float("inf")
    bad_steps: int = 0

    def check(self, event: Event) -> TunesmithError | None:
        if not isinstance(event, StepFinished) or event.metrics:
            # Techniques with their own metrics train on rewards or policy losses. These have no
            # lower bound, so a multiple of the best loss is meaningless.
            return None
        self.best_loss = min(self.best_loss, event.loss)
        # If the best loss is below 0.5, even three times that is still a small loss.
        diverged = event.loss > max(self.factor * self.best_loss, 0.5)
        self.bad_steps = self.bad_steps + 1 if diverged else 0
        if self.bad_steps < PATIENCE:
            return None
        return TrainingError(
            f"step {event.step}: the loss diverged: {event.loss:.3f}, more than "
            f"{self.factor:g} times its best of {self.best_loss:.3f} for {PATIENCE} steps",
            hint="lower learning_rate or raise schedule.warmup_ratio in [technique], then start a "
            "new run",
        )


@dataclass
class NoProgressGuard:
    """Ends a run whose gradients are all exactly zero, or whose loss is constant, for 20 steps."""

    losses: list[float] = field(default_factory=list)
    zero_gradient_steps: int = 0

    def check(self, event: Event) -> TunesmithError | None:
        if not isinstance(event, StepFinished):
            return None
        zero = event.gradient_norm == 0.0
        self.zero_gradient_steps = self.zero_gradient_steps + 1 if zero else 0
        self.losses = [*self.losses[-PATIENCE + 1 :], event.loss]
        constant = len(self.losses) == PATIENCE and len(set(self.losses)) == 1
        if self.zero_gradient_steps < PATIENCE and not constant:
            return None
        what = "the loss did not change" if constant else "every gradient was zero"
        return TrainingError(
            f"step {event.step}: {what} for {PATIENCE} steps",
            hint="`tunesmith check` shows which tokens contribute to the loss; also check that the "
            "technique has trainable parameters",
        )


@dataclass
class TimeLimitGuard:
    """Stops a run when its steps have taken ``[run] max_minutes``."""

    minutes: float
    seconds: float = 0.0

    def check(self, event: Event) -> TunesmithError | None:
        if not isinstance(event, StepFinished):
            return None
        self.seconds += event.seconds
        if self.seconds < self.minutes * 60 or event.step >= event.steps:
            return None
        return RunStopped(
            f"stopped at step {event.step}: run.max_minutes = {self.minutes:g} is reached"
        )


def create_guards(max_minutes: float | None) -> list[Guard]:
    """Create the guards of a run, including a time limit if one is set."""
    guards: list[Guard] = [DivergenceGuard(), NoProgressGuard()]
    return [*guards, TimeLimitGuard(max_minutes)] if max_minutes is not None else guards
