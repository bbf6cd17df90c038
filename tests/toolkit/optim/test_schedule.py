"""Batch order and learning rate: each row once per epoch, warm-up to the peak, decay to zero."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_torch.optim.schedule import BatchOrder, LearningRateSchedule


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_every_epoch_sees_every_row_once(rows: int, batch: int, epochs: int, seed: int) -> None:
    order = BatchOrder(rows, batch, epochs, seed)
    steps = list(order.batches())
    assert len(steps) == order.steps == math.ceil(rows / batch) * epochs
    per_epoch = order.steps_per_epoch
    for epoch in range(epochs):
        seen = [
            row
            for _, batch_ in steps[epoch * per_epoch : (epoch + 1) * per_epoch]
            for row in batch_
        ]
        assert sorted(seen) == list(range(rows))


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 100))
def test_a_resumed_order_continues_the_full_order(rows: int, batch: int, first: int) -> None:
    order = BatchOrder(rows, batch, 3, 7)
    first = min(first, order.steps)
    assert list(order.batches(first)) == list(order.batches())[first:]


def test_epochs_and_seeds_give_different_orders() -> None:
    order = BatchOrder(100, 100, 2, 0)
    (_, one), (_, two) = order.batches()
    assert one != two
    assert next(BatchOrder(100, 100, 1, 1).batches())[1] != one


def test_steps_of_a_fraction_of_an_epoch_and_max_steps() -> None:
    assert BatchOrder(30, 1, 0.1, 0).steps == 3
    assert BatchOrder(30, 1, 0.11, 0).steps == 4
    assert BatchOrder(10, 16, 0.001, 0).steps == 1
    assert BatchOrder(100, 10, 5, 0, max_steps=7).steps == 7


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"), [(100, 0.07, 7), (100, 0.29, 29), (300, 0.05, 15), (9, 0.5, 5)]
)
def test_the_warm_up_has_no_step_of_rounding(steps: int, ratio: float, expected: int) -> None:
    assert LearningRateSchedule(1e-3, steps, ratio, "cosine").warmup_steps == expected


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 10, 300])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.05, 0.5])
def test_learning_rate_rises_to_its_peak_and_ends_near_zero(
    schedule: str, steps: int, warmup_ratio: float
) -> None:
    rate = LearningRateSchedule(1e-3, steps, warmup_ratio, schedule)  # type: ignore[arg-type]
    rates = [rate.learning_rate_at(step) for step in range(steps)]
    assert max(rates) == pytest.approx(1e-3)
    assert all(0 < r <= 1e-3 * (1 + 1e-12) for r in rates)
    top = rates.index(max(rates))
    assert top in (rate.warmup_steps, max(rate.warmup_steps - 1, 0))
    assert rates[rate.warmup_steps :] == sorted(rates[rate.warmup_steps :], reverse=True)
    assert rates[: rate.warmup_steps] == sorted(rates[: rate.warmup_steps])
    if steps >= 300:
        assert rates[-1] < 1e-5


def test_a_constant_learning_rate_does_not_change() -> None:
    assert {
        LearningRateSchedule(2e-4, 10, 0.0, "constant").learning_rate_at(step) for step in range(10)
    } == {2e-4}
