"""Compute the rows and the learning rate of an optimizer step from its number.

Nothing here has state: a resumed run needs only its step number to continue in the same order and
at the same learning rate.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tunesmith_torch.options.training import TrainingOptions

__all__ = ["BatchOrder", "LearningRateSchedule"]


@dataclass(frozen=True)
class BatchOrder:
    """The batches of a training run: the rows in a new random order each epoch, cut into batches.

    The last batch of an epoch may be smaller.
    """

    rows: int
    """Number of training rows."""
    batch_size: int
    """Number of rows per optimizer step."""
    epochs: float
    """Passes over the rows; may be a fraction."""
    seed: int
    """Seed of the order; the same seed gives the same order."""
    max_steps: int | None = None
    """Maximum number of optimizer steps; None: as many as the epochs need."""

    @classmethod
    def from_options(cls, rows: int, options: TrainingOptions, seed: int) -> BatchOrder:
        """Return the batch order of a training run on this number of rows."""
        return cls(rows, options.batch_size, options.epochs, seed, options.max_steps)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in one epoch."""
        return math.ceil(self.rows / self.batch_size)

    @property
    def steps(self) -> int:
        """Number of optimizer steps in the run."""
        # Rounded first, because 0.1 * 30 is 3.0000000000000004, which must not become 4.
        steps = max(1, math.ceil(round(self.steps_per_epoch * self.epochs, 6)))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def batches(self, first: int = 0) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of each step, counted from 0 and starting at ``first``, and its rows."""
        shuffled, shuffled_epoch = [], -1
        for step in range(first, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != shuffled_epoch:
                shuffled, shuffled_epoch = self._shuffle(epoch), epoch
            yield step, shuffled[position * self.batch_size : (position + 1) * self.batch_size]

    def _shuffle(self, epoch: int) -> list[int]:
        rows = list(range(self.rows))
        # random.Random hashes a string seed with SHA-512, so neighboring seeds and epochs give
        # unrelated orders.
        random.Random(f"{self.seed}/{epoch}").shuffle(rows)
        return rows


@dataclass(frozen=True)
class LearningRateSchedule:
    """The learning rate: a linear warm-up, then a decay to zero after the last step, if any.

    The cosine comes from SGDR (Loshchilov and Hutter 2017, equation 5) without restarts::

        peak        .-''-.
                   /      `.
                  /         `.
                 /            `-.
        0 ______/________________`-___
          warm-up     cosine      steps
    """

    peak: float
    """Learning rate at the end of the warm-up."""
    steps: int
    """Number of optimizer steps in the training."""
    warmup_ratio: float
    """Share of the steps during which the rate rises, from 0 to 1."""
    schedule: Literal["cosine", "linear", "constant"]
    """Shape of the decay after the warm-up; ``constant`` means no decay."""

    @classmethod
    def from_options(cls, options: TrainingOptions, steps: int) -> LearningRateSchedule:
        """Return the schedule of a training run with this number of steps."""
        return cls(
            options.learning_rate, steps, options.schedule.warmup_ratio, options.schedule.type
        )

    @property
    def warmup_steps(self) -> int:
        """Number of warm-up steps."""
        # Rounded first: 100 * 0.07 is 7.000000000000001, which must not become 8.
        return min(math.ceil(round(self.steps * self.warmup_ratio, 6)), self.steps - 1)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.peak
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        cosine = self.schedule == "cosine"
        factor = (1 + math.cos(math.pi * progress)) / 2 if cosine else 1 - progress
        return self.peak * factor
