"""Guards: runs that they end, and runs that they do not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tunesmith.errors import RunStopped, TrainingError, TunesmithError
from tunesmith.events import FindingReported, StepFinished
from tunesmith.execution.guards import (
    PATIENCE,
    DivergenceGuard,
    Guard,
    NoProgressGuard,
    TimeLimitGuard,
    create_guards,
)


def step(
    number: int, loss: float, *, norm: float = 1.0, seconds: float = 1.0, **more: object
) -> StepFinished:
    return StepFinished(
        step=number, steps=1000, loss=loss, learning_rate=0.1, gradient_norm=norm, rows=1,
        tokens=1, trained_tokens=1, seconds=seconds, memory_bytes=0, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def first(
    guard: Guard, losses: Iterable[float], **more: object
) -> tuple[int, TunesmithError] | None:
    """The step at which the guard objects, and with what."""
    for number, loss in enumerate(losses, 1):
        error = guard.check(step(number, loss, **more))  # type: ignore[arg-type]
        if error is not None:
            return number, error
    return None


def test_divergence_ends_a_run_after_twenty_steps() -> None:
    found = first(DivergenceGuard(), [2.0, 1.0, *[3.5] * 100])
    assert found is not None
    number, error = found
    assert number == 2 + PATIENCE
    assert isinstance(error, TrainingError) and "step 22: the loss diverged: 3.5" in error.message


@pytest.mark.parametrize(
    "losses",
    [
        [2.0 - n / 100 for n in range(200)],
        [1.0, *([5.0] * (PATIENCE - 1) + [1.0]) * 5],  # it recovers each time
        [1.0, *[2.9] * 100],
        [0.001, *[0.4 + n / 1e4 for n in range(100)]],  # three times nearly nothing is still little
    ],
    ids=["falls", "recovers", "less than threefold", "small"],
)
def test_losses_that_do_not_diverge(losses: list[float]) -> None:
    assert first(DivergenceGuard(), losses) is None


def test_losses_of_reinforcement_learning_are_not_checked() -> None:
    assert (
        first(DivergenceGuard(), [0.1, *[9.0 + n for n in range(60)]], metrics={"reward": 1.0})
        is None
    )


def test_a_constant_loss() -> None:
    found = first(NoProgressGuard(), [2.0] * 100)
    assert found is not None and found[0] == PATIENCE
    assert "did not change" in found[1].message
    assert first(NoProgressGuard(), [2.0 + n % 2 * 1e-9 for n in range(100)]) is None


def test_gradients_of_zero() -> None:
    losses = [1.0 + n for n in range(100)]
    found = first(NoProgressGuard(), losses, norm=0.0)
    assert found is not None and found[0] == PATIENCE
    assert "every gradient was zero" in found[1].message


def test_one_nonzero_gradient_resets_the_count() -> None:
    guard = NoProgressGuard()
    for number in range(100):
        norm = 1.0 if number % (PATIENCE - 1) == 0 else 0.0
        assert guard.check(step(number, float(number), norm=norm)) is None


def test_the_time_limit_counts_only_training() -> None:
    found = first(TimeLimitGuard(1.0), [1.0] * 100, seconds=7.0)
    assert found is not None
    number, error = found
    assert number == 9  # 63 seconds
    assert isinstance(error, RunStopped) and error.exit_code == 75


def test_the_last_step_is_not_stopped() -> None:
    last = StepFinished(
        step=10, steps=10, loss=1.0, learning_rate=0.1, gradient_norm=1.0, rows=1, tokens=1,
        trained_tokens=1, seconds=999.0, memory_bytes=0,
    )  # fmt: skip
    assert TimeLimitGuard(1.0).check(last) is None


def test_other_events_are_ignored() -> None:
    for guard in create_guards(1.0):
        assert guard.check(FindingReported(level="info", source="s", message="m")) is None


def test_the_guards_of_a_run() -> None:
    assert [type(guard) for guard in create_guards(None)] == [DivergenceGuard, NoProgressGuard]
    assert [type(guard) for guard in create_guards(2.0)] == [
        DivergenceGuard,
        NoProgressGuard,
        TimeLimitGuard,
    ]
