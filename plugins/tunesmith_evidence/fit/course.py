"""Read the losses of a training run over its cumulative learning rate.

Near the end of a schedule, the learning rate is close to 0, so the loss is flat there no matter how
little the model has learned. Steps are therefore weighted by their learning rate: the "last part"
of training is where the last third of the summed learning rates was spent.
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
"""Length of the last part of training, as a share of the summed learning rates."""
LAST_PART = 1 - TAIL_SHARE - 1e-9
"""Start of the last part in the same unit, with a tolerance for rounding."""
MIN_TAIL_STEPS = 6
"""Minimum number of steps in the last part; the losses of fewer steps are too noisy."""
VALIDATION_WINDOW = (0.4, 0.9)
"""Range for an earlier validation loss to compare with the last one.

The bounds are shares of the summed learning rates.
"""
MIN_FALL_SHARE = 0.1
"""The loss is still falling if it drops by at least this share during the last part."""
MIN_FALL = 0.05
"""Smallest drop in the last part that matters for :data:`MIN_FALL_SHARE`, in nats."""
MIN_PROGRESS_SHARE = 0.2
"""The loss is also still falling if the last part contributes this share of the total progress.
Steady progress would contribute 1/3."""
MIN_PROGRESS = 0.01
"""Smallest drop in the last part that matters for :data:`MIN_PROGRESS_SHARE`, in nats."""
MIN_RISE = 0.1
"""The training loss has risen if it exceeds the loss of the first step by at least this share."""
CONFIDENCE_OF_RISE = 0.999
"""One-sided confidence level for an increase in the training loss."""
VALIDATION_LOSS = "validation_loss"
"""Name of the metric that is measured on validation rows during training."""

Points = Sequence[tuple[float, float]]
"""Pairs of a share of the summed learning rates and the (finite) loss there."""


@dataclass(frozen=True)
class LossFall:
    """The drop in a loss during the last part of training."""

    value: float
    """The drop in nats; positive if the loss fell."""
    low: float
    """Lower end of the confidence interval of the drop, in nats."""
    high: float
    """Upper end of the confidence interval of the drop, in nats."""
    start: float
    """The loss at the start of the last part."""
    is_validation: bool
    total: float
    """The drop since the first step, in nats."""

    @property
    def share(self) -> float:
        """The drop as a share of the loss at the start of the last part."""
        return self.value / self.start if self.start > 0 else 0.0

    @property
    def is_clear(self) -> bool:
        """True if the loss was clearly still falling."""
        is_large = self.value >= MIN_FALL and self.share >= MIN_FALL_SHARE
        is_steady = self.value >= MIN_PROGRESS and self.value >= MIN_PROGRESS_SHARE * self.total
        return self.low > 0 and (is_large or is_steady)

    @property
    def has_levelled_off(self) -> bool:
        """True if the loss fell overall, but clearly did not fall during the last part."""
        limit = max(
            MIN_PROGRESS,
            min(MIN_PROGRESS_SHARE * self.total, max(MIN_FALL, MIN_FALL_SHARE * self.start)),
        )
        return self.total > limit > self.high


@dataclass(frozen=True)
class LossHistory:
    """The losses of one training stage over its cumulative learning rate."""

    steps: Sequence[StepFinished]
    shares: Sequence[float]
    """The share of the summed learning rates that was spent before each step."""
    validation: Points
    """The validation losses, which are always measured on the same rows."""

    @property
    def losses(self) -> Points:
        """The training loss of each step, computed on the step's own rows before the update."""
        return _finite([*zip(self.shares, (step.loss for step in self.steps), strict=True)])

    @property
    def is_of_pairs(self) -> bool:
        """True for a preference loss, which starts at the loss of a model without preference."""
        return any("reward_margin" in step.metrics for step in self.steps)

    @property
    def is_of_data(self) -> bool:
        """True unless the loss is that of an RL policy, which does not show progress."""
        return self.is_of_pairs or not any(step.metrics for step in self.steps)

    @property
    def last_steps(self) -> list[StepFinished]:
        """The steps in the last part of training."""
        pairs = zip(self.shares, self.steps, strict=True)
        return [step for share, step in pairs if share >= LAST_PART] or [*self.steps[-1:]]

    def find_fall(self) -> LossFall | None:
        """Return how far the loss fell during the last part, or None if too little was measured.

        Use the validation loss if it was measured. Its rows are always the same and are new to the
        model, so it stops falling when the model merely memorizes its training rows.
        """
        if not self.is_of_data:
            return None
        return _validation_fall(self.validation, self.losses) or _steps_fall(self.losses)


def read_loss_history(report: Report, stage: str) -> LossHistory:
    """Read the losses of a training stage from a report."""
    steps = report.steps_of(stage)
    spent = [0.0, *accumulate(step.learning_rate for step in steps)]
    total = spent[-1] or 1.0
    by_step = {step.step: share / total for step, share in zip(steps, spent[1:], strict=True)}
    validation = [
        (by_step.get(event.step, 0.0), event.metrics[VALIDATION_LOSS])
        for event in report.monitored_of(stage)
        if VALIDATION_LOSS in event.metrics and (event.step in by_step or event.step == 0)
    ]
    return LossHistory(
        steps, [before / total for before in spent[: len(steps)]], _finite(validation)
    )


def _finite(points: Points) -> Points:
    return [(share, loss) for share, loss in points if math.isfinite(loss)]


def _validation_fall(validation: Points, losses: Points) -> LossFall | None:
    """Compare the last validation loss with the one nearest to the start of the last part.

    The result is None if there is no earlier loss to compare with.
    """
    low, high = VALIDATION_WINDOW
    earlier = [point for point in validation[:-1] if low <= point[0] <= high]
    if not earlier:
        return None
    share, before = min(earlier, key=lambda point: abs(point[0] - (1 - TAIL_SHARE)))
    last_share, last = validation[-1]
    if last_share <= share or min(before, last) <= 0:
        return None
    # Assume exponential decay between the two measurements.
    start = last * (before / last) ** (TAIL_SHARE / (last_share - share))
    first = validation[0] if validation[0][0] == 0 else losses[0]
    fall = start - last
    return LossFall(fall, fall, fall, start, is_validation=True, total=first[1] - last)


def _steps_fall(losses: Points) -> LossFall | None:
    """Fit an exponential decay to the losses in the last part.

    This is a least-squares fit of the log losses, with a 95 % confidence interval of the slope; the
    fitted loss stays above 0. The result is None if there are too few losses.
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
    return LossFall(
        value, low, high, start, is_validation=False, total=losses[0][1] - start + value
    )


def find_rise(losses: Points) -> float | None:
    """Return the mean loss of the last part if the training loss has risen, otherwise None.

    The mean must exceed the first loss by at least :data:`MIN_RISE`. The first loss must also lie
    below the one-sided prediction interval for one more loss of the last part (normal,
    :data:`CONFIDENCE_OF_RISE`).
    """
    tail = [loss for share, loss in losses if share >= LAST_PART]
    n = len(tail)
    if n < MIN_TAIL_STEPS or losses[0][0] > 0:
        return None
    first, mean, deviation = losses[0][1], statistics.fmean(tail), statistics.stdev(tail)
    bound = mean - student_quantile(CONFIDENCE_OF_RISE, n - 1) * deviation * math.sqrt(1 + 1 / n)
    return mean if first < bound and mean >= (1 + MIN_RISE) * first else None
