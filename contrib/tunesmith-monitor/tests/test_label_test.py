"""The e-detector of audited labels: run length without a change, delay with one."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith_monitor.budget import LAYERS, Budget
from tunesmith_monitor.label_test import LabelTest


def run_lengths(share: float, floor: float, limit: float, streams: int, most: int) -> np.ndarray:
    """Return the number of labels until the first alarm of each stream, at most ``most``."""
    rng, lengths = np.random.default_rng(0), []
    for _ in range(streams):
        test = LabelTest.start(floor, limit)
        values = rng.random(most) < share
        lengths.append(next((n for n, v in enumerate(values, 1) if test.add(float(v))), most))
    return np.array(lengths)


def test_without_a_change_the_run_length_is_at_least_the_stated_one() -> None:
    lengths = run_lengths(share=0.8, floor=0.8, limit=200, streams=200, most=3_000)
    assert lengths.mean() >= 200
    assert (lengths < 3_000).any(), "the test cannot raise an alarm"


def test_a_change_is_found_soon() -> None:
    lengths = run_lengths(share=0.6, floor=0.8, limit=10_000, streams=50, most=1_000)
    assert (lengths < 1_000).all() and np.median(lengths) < 150


def test_the_alarm_needs_the_whole_run_length() -> None:
    test, alarms = LabelTest.start(0.9, 1e9), 0
    for _ in range(5):
        alarms += test.add(0.0)
    assert not alarms and 0 < test.evidence < 1e9


def test_the_run_length_holds_for_a_floor_of_zero() -> None:
    """A model that is never right does not fall below it."""
    for floor in (0.0, -0.02):
        test = LabelTest.start(floor, 100)
        assert not any(test.add(0.0) for _ in range(99))


def test_the_shares_of_the_budget_add_up() -> None:
    assert sum(LAYERS.values()) == pytest.approx(1)
    assert sum(map(Budget(1_000).rate, LAYERS)) == pytest.approx(1 / 1_000)
