"""Which rows an optimizer step learns from, and how fast: pure functions of the step's number.

Because nothing here has state, a resumed run needs only its step to continue in the same order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tunesmith_torch.options.training import FitOptions


@dataclass(frozen=True)
class Order:
    """Rows in a new random order each epoch, cut into batches; the last of an epoch is short."""

    rows: int
    batch: int
    epochs: float
    seed: int
    max_steps: int | None = None

    @classmethod
    def of(cls, rows: int, options: FitOptions, seed: int) -> Order:
        """The order in which the training loop takes so many rows."""
        return cls(rows, options.batch_size, options.epochs, seed, options.max_steps)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows / self.batch)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        # Rounding first: 0.1 * 30 steps is 3.0000000000000004, and must not become 4.
        steps = max(1, math.ceil(round(self.steps_per_epoch * self.epochs, 6)))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def batches(self, first: int = 0) -> Iterator[tuple[int, list[int]]]:
        """Step number, counted from 0, and its rows, from step ``first`` on."""
        shuffled, of_epoch = [], -1
        for step in range(first, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != of_epoch:
                shuffled, of_epoch = self._shuffled(epoch), epoch
            yield step, shuffled[position * self.batch : (position + 1) * self.batch]

    def _shuffled(self, epoch: int) -> list[int]:
        rows = list(range(self.rows))
        # A string seed goes through SHA-512: neighbouring seeds and epochs give unlike orders.
        random.Random(f"{self.seed}/{epoch}").shuffle(rows)
        return rows


@dataclass(frozen=True)
class Rate:
    """The learning rate: a linear rise, then a fall that would reach zero one step after the last.

    Cosine as in SGDR (Loshchilov and Hutter 2017, equation 5) without restarts.
    """

    peak: float
    steps: int
    warmup_ratio: float
    schedule: Literal["cosine", "linear", "constant"]

    @classmethod
    def of(cls, options: FitOptions, steps: int) -> Rate:
        """The rate of the training loop over so many steps."""
        return cls(options.learning_rate, steps, options.warmup_ratio, options.schedule)

    @property
    def rising(self) -> int:
        """Steps of the rise."""
        return min(math.ceil(self.steps * self.warmup_ratio), self.steps - 1)

    def at(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self.rising:
            return self.peak * (step + 1) / self.rising
        if self.schedule == "constant":
            return self.peak
        done = (step - self.rising) / (self.steps - self.rising)
        left = (1 + math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else 1 - done
        return self.peak * left
