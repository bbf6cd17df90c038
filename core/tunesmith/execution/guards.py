"""Guards: pure judgements over the events of a run.

A guard looks at one event, keeps what it must remember, and says in words why the run should end;
an empty answer lets it go on. Whether a loss is finite is checked in the training loop itself,
before the optimizer step; guards catch what only shows over time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from tunesmith.errors import RunStopped, TrainingError, TunesmithError
from tunesmith.events import Event, Stepped

PATIENCE = 20
"""Steps within which a fault must be named."""


class Guard(Protocol):
    """Judges events in order."""

    def judge(self, event: Event) -> TunesmithError | None:
        """The reason to end the run, or None."""
        ...


@dataclass
class Divergence:
    """The loss has been over three times its best for twenty steps in a row."""

    factor: float = 3.0
    best: float = float("inf")
    bad: int = 0

    def judge(self, event: Event) -> TunesmithError | None:
        if not isinstance(event, Stepped) or event.extras:
            # Rewards and policy losses have no floor to be compared with.
            return None
        self.best = min(self.best, event.loss)
        self.bad = self.bad + 1 if event.loss > max(self.factor * self.best, 0.5) else 0
        if self.bad < PATIENCE:
            return None
        return TrainingError(
            f"step {event.step}: the loss diverged: {event.loss:.3g}, "
            f"over {self.factor:g} times its best of {self.best:.3g} for {PATIENCE} steps",
            hint="lower the learning rate or lengthen the warm-up, then run again",
        )


@dataclass
class Standstill:
    """The gradient is exactly zero, or the loss never moves: nothing is being learned."""

    losses: list[float] = field(default_factory=list)
    zero: int = 0

    def judge(self, event: Event) -> TunesmithError | None:
        if not isinstance(event, Stepped):
            return None
        self.zero = self.zero + 1 if event.gradient_norm == 0.0 else 0
        self.losses = [*self.losses[-PATIENCE + 1 :], event.loss]
        still = len(self.losses) == PATIENCE and len(set(self.losses)) == 1
        if self.zero < PATIENCE and not still:
            return None
        what = "the loss has not moved at all" if still else "every gradient was zero"
        return TrainingError(
            f"step {event.step}: {what} for {PATIENCE} steps",
            hint="check that the rows carry loss (tunesmith check) and that parameters are trained",
        )


@dataclass
class TimeLimit:
    """Training has used up the minutes that the run file allows."""

    minutes: float
    seconds: float = 0.0

    def judge(self, event: Event) -> TunesmithError | None:
        if not isinstance(event, Stepped):
            return None
        self.seconds += event.seconds
        if self.seconds < self.minutes * 60 or event.step >= event.steps:
            return None
        return RunStopped(f"the limit of {self.minutes:g} minutes is reached at step {event.step}")


def default_guards(max_minutes: float | None) -> list[Guard]:
    """The guards of every run; the time limit where one is set."""
    guards: list[Guard] = [Divergence(), Standstill()]
    return [*guards, TimeLimit(max_minutes)] if max_minutes is not None else guards
