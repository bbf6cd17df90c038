"""The course of a training: rises and falls of its losses, by the learning rate that was spent."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from tunesmith.events import Monitored, StepFinished
from tunesmith.execution.report import build_report
from tunesmith.testing import sample_event
from tunesmith_evidence.fit import course
from tunesmith_evidence.fit.course import LossFall, LossHistory, find_rise, read_loss_history

RNG = random.Random(5)
LEVEL = [3.0, 2.0, *(1.0 + RNG.gauss(0, 0.01) for _ in range(58))]


def make(
    losses: Sequence[float],
    rates: Sequence[float] | None = None,
    validation: dict[int, float] | None = None,
    **metrics: float,
) -> LossHistory:
    """Return the course of a training; by default at a constant rate."""
    rates = rates or [1e-3] * len(losses)
    steps = [
        sample_event(StepFinished, stage="", step=n, loss=loss, learning_rate=rate, metrics=metrics)
        for n, (loss, rate) in enumerate(zip(losses, rates, strict=True), 1)
    ]
    monitored = [
        sample_event(Monitored, stage="", step=step, metrics={"validation_loss": loss})
        for step, loss in (validation or {}).items()
    ]
    return read_loss_history(build_report([*steps, *monitored]), "")


def cosine(steps: int) -> list[float]:
    return [1e-3 * (1 + math.cos(math.pi * n / steps)) / 2 for n in range(steps)]


def fall_of(losses: Sequence[float], rates: Sequence[float] | None = None) -> LossFall | None:
    return make(losses, rates).find_fall()


def test_the_rise_of_losses() -> None:
    def rise(losses: Sequence[float]) -> float | None:
        return find_rise(make(losses).losses)

    assert rise([1.0, *[2.0] * 20]) == pytest.approx(2.0)
    assert rise([1.0, *[1.05] * 20]) is None, "hardly"
    assert rise([1.0, *[0.5] * 20]) is None
    assert rise([1.0] * 12) is None, "too few steps"
    assert rise([float("nan"), *[2.0] * 20]) is None
    assert rise([1.0, *[1.5, 0.9] * 10]) is None, "as noisy as that"
    rng = random.Random(1)
    rises = [rise([1 + rng.gauss(0, 0.2) for _ in range(30)]) for _ in range(1000)]
    assert sum(found is not None for found in rises) <= 5


def test_the_fall_of_a_line() -> None:
    fall = fall_of([4 - n / 30 for n in range(61)])
    assert fall is not None
    assert fall.value == pytest.approx(20 / 30, rel=0.03)
    assert fall.share == pytest.approx(0.25, abs=0.01)
    assert fall.is_clear and not fall.has_levelled_off


def test_a_level() -> None:
    fall = fall_of(LEVEL)
    assert fall is not None and fall.has_levelled_off and not fall.is_clear
    small = fall_of([1.0, *(0.0009 - 0.00002 * n for n in range(30))])
    assert small is not None and small.has_levelled_off, "nothing to learn"
    flat = fall_of([1.0] * 30)
    assert flat is not None and not flat.has_levelled_off, "it never fell"
    assert fall_of([0.0] * 30) is None
    assert fall_of(LEVEL[:12]) is None, "too few steps"


def test_the_end_of_a_schedule_shows_nothing() -> None:
    """A loss that falls by the learning rate is flat in the last steps, where that is near 0."""
    rates = cosine(90)
    spent, losses = 0.0, []
    for rate in rates:
        losses.append(3 - 40 * spent)
        spent += rate
    assert losses[-10] - losses[-1] < 0.01, "flat"
    fall = fall_of(losses, rates)
    assert fall is not None and fall.is_clear
    assert fall.value == pytest.approx(40 * spent / 3, rel=0.05)


def test_the_validation_loss_comes_first() -> None:
    """The training loss falls as long as rows are learned by heart."""
    falling = [4 - n / 20 for n in range(60)]
    fall = make(falling, validation={20: 2.1, 40: 2.0, 60: 2.0}).find_fall()
    assert fall is not None and fall.is_validation and fall.has_levelled_off
    risen = make(falling, validation={20: 2.1, 40: 2.0, 60: 2.5}).find_fall()
    assert risen is not None and not risen.is_clear
    halved = make(LEVEL, validation={30: 1.0, 60: 0.5}).find_fall()
    assert halved is not None and halved.is_clear
    assert halved.share == pytest.approx(1 - 0.5 ** (2 / 3)), "of a third, not of the half"
    for validation in ({0: 5.0, 60: 1.0}, {58: 2.0, 60: 1.0}):
        only_steps = make(LEVEL, validation=validation).find_fall()
        assert only_steps is not None and not only_steps.is_validation, "nothing to compare with"


def test_progress_that_goes_on() -> None:
    """A tiny rate: the loss hardly falls in the end, as in all of the training."""
    steady = {0: 3.0, 20: 2.95, 40: 2.9, 60: 2.85}
    fall = make(LEVEL, validation=steady).find_fall()
    assert fall is not None and fall.share < course.MIN_FALL_SHARE and fall.is_clear
    before = make(LEVEL, validation={**steady, 0: 4.0}).find_fall()
    assert before is not None and before.has_levelled_off and not before.is_clear
    without_first = {step: loss for step, loss in steady.items() if step}
    by_step = make([3.0, *LEVEL[1:]], validation=without_first).find_fall()
    assert by_step == fall, "the first step's loss is that of the untrained model, too"


def test_noise_rarely_looks_like_a_fall() -> None:
    """At most 5 % by the interval; nor is it taken for a level."""
    rng = random.Random(1)
    falls = [fall_of([2, *(1 + rng.gauss(0, 0.3) for _ in range(30))]) for _ in range(400)]
    found = [fall for fall in falls if fall is not None]
    assert len(found) == 400
    assert sum(fall.is_clear for fall in found) / 400 < 0.05
    assert sum(fall.has_levelled_off for fall in found) / 400 < 0.2


def test_the_loss_of_a_policy_means_nothing() -> None:
    falling = [4 - n / 20 for n in range(60)]
    assert make(falling, kl=1.0).find_fall() is None
    assert make(falling, reward_margin=1.0, accuracy=0.6).find_fall() is not None
