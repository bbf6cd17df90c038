"""The course of a training: its losses over the learning rate that was spent.

At the end of a schedule the learning rate is near 0, so the loss is flat there however little the
model has learned. Progress is therefore measured by the learning rates of the steps, added up: the
last third of a training is the part in which the last third of this sum was spent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tunesmith.events import StepFinished
from tunesmith.execution.report import Report
from tunesmith.statistics.distributions import student_quantile

TAIL_SHARE = 1 / 3
"""The last part of a training, as a share of the learning rate that is spent in all."""
LAST_PART = 1 - TAIL_SHARE - 1e-9
"""Where it begins, in spite of rounding."""
MIN_TAIL_STEPS = 6
"""Steps in the last part below which their losses, each of other rows, show nothing."""
VALIDATION_WINDOW = (0.4, 0.9)
"""Shares of the learning rate between which an earlier validation loss is compared with the last
one."""
FALL = 0.1
"""Fall of the loss in the last part, as a share of its start, that counts as falling."""
LEAST_FALL = 0.05
"""Fall of the loss in the last part, in nats, below which it does not matter."""
PROGRESS = 0.2
"""Share of all progress, in the last part, that counts as falling: 1/3 if it is steady."""
LEAST_PROGRESS = 0.01
"""Progress in the last part, in nats, below which it does not matter."""
RISE = 0.1
"""Rise of the training loss over that of the first step, as a share of it, that counts as risen."""
CERTAIN = 0.999
"""One-sided level at which a training loss has risen: hardly any run meets such a first step."""
VALIDATION_LOSS = "validation_loss"
"""Name of the metric that is evaluated on validation rows during the training."""

Points = Sequence[tuple[float, float]]
"""The share of the learning rate that was spent, and the loss; all losses are finite."""


@dataclass(frozen=True)
class Fall:
    """The fall of a loss in the last part of a training."""

    value: float
    """In nats."""
    low: float
    """The lower end of its interval, in nats."""
    high: float
    """The upper end of its interval, in nats."""
    start: float
    """The loss at the beginning of the last part."""
    is_validation: bool
    total: float
    """The fall since the first step, in nats."""

    @property
    def share(self) -> float:
        """The fall as a share of the loss at the beginning of the last part."""
        return self.value / self.start if self.start > 0 else 0.0

    @property
    def is_clear(self) -> bool:
        """True if the loss was still falling."""
        is_large = self.value >= LEAST_FALL and self.share >= FALL
        is_steady = self.value >= LEAST_PROGRESS and self.value >= PROGRESS * self.total
        return self.low > 0 and (is_large or is_steady)

    @property
    def has_levelled_off(self) -> bool:
        """True if the loss has fallen, but not in the last part, and this is no chance."""
        limit = max(LEAST_PROGRESS, min(PROGRESS * self.total, max(LEAST_FALL, FALL * self.start)))
        return self.total > limit > self.high


@dataclass(frozen=True)
class Course:
    """The losses of one training."""

    steps: Sequence[StepFinished]
    shares: Sequence[float]
    """The share of the learning rate that was spent before each step."""
    validation: Points
    """The losses of the same validation rows, as often as they were evaluated."""

    @property
    def losses(self) -> Points:
        """The losses of the steps: before each of them, on its own rows."""
        return _finite([*zip(self.shares, (step.loss for step in self.steps), strict=True)])

    @property
    def is_of_pairs(self) -> bool:
        """True if the loss is one of preferences, which begins at that of a model without any."""
        return any("reward_margin" in step.metrics for step in self.steps)

    @property
    def is_of_data(self) -> bool:
        """True if the losses are those of data: the loss of a policy means nothing by itself."""
        return self.is_of_pairs or not any(step.metrics for step in self.steps)

    @property
    def last_steps(self) -> list[StepFinished]:
        """The steps in the last part."""
        pairs = zip(self.shares, self.steps, strict=True)
        return [step for share, step in pairs if share >= LAST_PART] or [*self.steps[-1:]]

    def find_fall(self) -> Fall | None:
        """Return how far the loss fell in the last part; None if too little was measured.

        The validation loss is taken if there is one: its rows are always the same, and they are new
        to the model, so that it stops falling when the model only learns its rows by heart.
        """
        if not self.is_of_data:
            return None
        return _validation_fall(self.validation, self.losses) or _steps_fall(self.losses)


def read_course(report: Report, stage: str) -> Course:
    """Return the course of a stage."""
    steps = report.steps_of(stage)
    spent = [0.0, *accumulate(step.learning_rate for step in steps)]
    total = spent[-1] or 1.0
    by_step = {step.step: share / total for step, share in zip(steps, spent[1:], strict=True)}
    validation = [
        (by_step.get(event.step, 0.0), event.metrics[VALIDATION_LOSS])
        for event in report.monitored_of(stage)
        if VALIDATION_LOSS in event.metrics and (event.step in by_step or event.step == 0)
    ]
    return Course(steps, [before / total for before in spent[: len(steps)]], _finite(validation))


def _finite(points: Points) -> Points:
    return [(share, loss) for share, loss in points if math.isfinite(loss)]


def _validation_fall(validation: Points, losses: Points) -> Fall | None:
    """Compare the last validation loss with the one nearest to the start of the last part."""
    low, high = VALIDATION_WINDOW
    earlier = [point for point in validation[:-1] if low <= point[0] <= high]
    if not earlier:
        return None
    share, before = min(earlier, key=lambda point: abs(point[0] - (1 - TAIL_SHARE)))
    last_share, last = validation[-1]
    if last_share <= share or min(before, last) <= 0:
        return None
    # Between the two the loss is taken to fall by equal factors.
    start = last * (before / last) ** (TAIL_SHARE / (last_share - share))
    first = validation[0] if validation[0][0] == 0 else losses[0]
    fall = start - last
    return Fall(fall, fall, fall, start, is_validation=True, total=first[1] - last)


def _steps_fall(losses: Points) -> Fall | None:
    """Fit a line to the logarithms of the last losses (least squares; 95 % interval of the slope).

    So the loss falls by equal factors, and never below 0.
    """
    tail = [(share, math.log(loss)) for share, loss in losses if share >= LAST_PART and loss > 0]
    n = len(tail)
    if n < MIN_TAIL_STEPS:
        return None
    x_mean, mean = (math.fsum(column) / n for column in zip(*tail, strict=True))
    spread = math.fsum((x - x_mean) ** 2 for x, _ in tail)
    if not spread:
        return None
    slope = math.fsum((x - x_mean) * y for x, y in tail) / spread
    residuals = (y - mean - slope * (x - x_mean) for x, y in tail)
    error = math.sqrt(math.fsum(r * r for r in residuals) / (n - 2) / spread)
    reach = student_quantile(0.975, n - 2) * error
    start = math.exp(mean - slope * TAIL_SHARE / 2)
    low, value, high = (
        -start * math.expm1(TAIL_SHARE * x) for x in (slope + reach, slope, slope - reach)
    )
    return Fall(value, low, high, start, is_validation=False, total=losses[0][1] - start + value)


def find_rise(losses: Points) -> float | None:
    """Return the mean of the last losses if it is above the first loss by :data:`RISE`, or None.

    The first loss has to lie below all that such losses would include by chance (prediction
    interval of one more normal value, at :data:`CERTAIN`).
    """
    tail = [loss for share, loss in losses if share >= LAST_PART]
    n = len(tail)
    if n < MIN_TAIL_STEPS or losses[0][0] > 0:
        return None
    first, mean, deviation = losses[0][1], statistics.fmean(tail), statistics.stdev(tail)
    bound = mean - student_quantile(CERTAIN, n - 1) * deviation * math.sqrt(1 + 1 / n)
    return mean if first < bound and mean >= (1 + RISE) * first else None
