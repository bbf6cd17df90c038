"""The window test: exact against a plain permutation test, and calibrated on streams."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.errors import UsageError
from tunesmith_monitor.window_test import Group, Reference, WindowTest

GROUPS = (Group("topic", slice(0, 4)), Group("rare", slice(4, 5)))
SIZE = 25


def draw(rng: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    """Draw skewed features, the last of which is nearly always 0."""
    topic = rng.exponential(1.0, (count, 4)) + shift
    return np.hstack([topic, rng.random((count, 1)) < 0.01])


@pytest.mark.parametrize("level", [0.05])
def test_streams_without_change_raise_at_most_the_stated_alarms(level: float) -> None:
    """Over references too: a small reference is never like the traffic."""
    rng, alarms, windows = np.random.default_rng(0), 0, 0
    for trial in range(250):
        test = WindowTest.build(Reference(draw(rng, 120), GROUPS), SIZE, level, seed=trial)
        for window in range(4):
            alarms += bool(test.find_changed(draw(rng, SIZE), seed=window))
            windows += 1
    # Three standard errors above the level; windows of a reference depend on each other.
    assert alarms / windows <= level + 3 * np.sqrt(level / windows) * 1.5
    assert alarms, "the test cannot raise an alarm"


def test_a_change_is_found_and_named() -> None:
    rng = np.random.default_rng(1)
    test = WindowTest.build(Reference(draw(rng, 300), GROUPS), SIZE, 0.01, seed=0)
    assert {"topic"} == test.find_changed(draw(rng, SIZE, shift=2.0), seed=0).keys()
    foreign = draw(rng, SIZE)
    foreign[:10, 4] = 1
    found = test.find_changed(foreign, seed=0)
    assert found.keys() == {"rare"} and found["rare"] <= 0.01
    assert not test.find_changed(foreign, seed=0, ignored={"rare"})
    assert not test.find_changed(foreign, seed=0, ignored={"rare", "topic"})


def test_the_p_value_is_that_of_a_plain_permutation_test() -> None:
    rng = np.random.default_rng(2)
    reference, window = draw(rng, 90)[:, :1], draw(rng, SIZE, shift=0.4)[:, :1]
    groups = (Group("topic", slice(0, 1)),)
    test = WindowTest.build(Reference(reference, groups), SIZE, 0.2, seed=0)
    pool = np.concatenate([reference, window])[:, 0]
    observed = abs(window.mean() - pool.mean())
    draws = [abs(rng.choice(pool, SIZE, replace=False).mean() - pool.mean()) for _ in range(4_000)]
    plain = float(np.mean(np.array(draws) >= observed))
    many = WindowTest(test.reference, SIZE, 1.0, 8_000, test.units, threshold=0.0).find_changed(
        window, seed=0
    )
    assert many["topic"] == pytest.approx(plain, abs=0.02) and 0 < plain < 0.5


def test_a_rise_or_a_small_fall_of_a_one_sided_group_is_not_a_change() -> None:
    rng = np.random.default_rng(3)
    group = (Group("confidence", slice(0, 1), falls=True, tolerance=0.1),)
    test = WindowTest.build(Reference(rng.beta(8, 2, (300, 1)), group), SIZE, 0.01, seed=0)
    assert not test.find_changed(np.full((SIZE, 1), 1.0), seed=0)
    assert not test.find_changed(np.full((SIZE, 1), 0.72), seed=0)
    assert test.find_changed(np.full((SIZE, 1), 0.5), seed=0)


def test_impossible_settings_are_refused() -> None:
    reference = Reference(draw(np.random.default_rng(4), 60), GROUPS)
    with pytest.raises(UsageError, match="60 reference requests are too few"):
        WindowTest.build(reference, 25, 0.01, seed=0)
    with pytest.raises(UsageError, match="too short for so few false alarms"):
        WindowTest.build(reference, 20, 1e-6, seed=0)
