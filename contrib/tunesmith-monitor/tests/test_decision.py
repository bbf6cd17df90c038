"""The decision: each word can occur, inputs move it the right way, and it beats fixed policies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith_monitor.decision import STEPS, Inputs, decide, list_sensitivities

DRIFTED = Inputs(
    error_before=0.1, error_now=0.3, error_low=0.24, error_high=0.37, audited=200, rows=200,
    volume=10_000, months=6, value=1, training_cost=20, label_cost=0.5, forgetting=0.002,
    first_rows=50, exponent=0.5,
)  # fmt: skip


def test_the_net_value_is_that_of_the_formula() -> None:
    learned = 1 - (1 + 200 / 50) ** -0.5
    assert DRIFTED.net(0.3) == pytest.approx((0.2 * learned - 0.002) * 60_000 - 20)
    more = 1 - (1 + 260 / 50) ** -0.5  # a third of 90 new labels become test rows
    assert DRIFTED.net(0.3, 90) == pytest.approx((0.2 * more - 0.002) * 60_000 - 20 - 45)
    assert DRIFTED.learned(10**9) == pytest.approx(1, abs=1e-3)
    assert replace(DRIFTED, rows=0).learned() == 0


def test_each_decision_has_its_case() -> None:
    assert decide(DRIFTED).word == "RETRAIN"
    assert decide(replace(DRIFTED, error_now=0.1, error_low=0.07, error_high=0.14)).word == "WAIT"
    unsure = decide(replace(DRIFTED, error_low=0.1, audited=15))
    assert unsure.word == "LABEL" and unsure.labels in STEPS and unsure.text.endswith(" MORE")
    assert decide(replace(DRIFTED, rows=0)).word == "LABEL", "nothing to train on yet"
    assert decide(replace(DRIFTED, volume=10)).word == "WAIT", "too few requests to pay for it"
    assert decide(replace(DRIFTED, rows=0, label_cost=1e4)).word == "WAIT"


def test_every_input_is_varied_and_some_matter() -> None:
    found = {name: (half, double) for name, _, half, double in list_sensitivities(DRIFTED)}
    assert found.keys() == {*Inputs.__dataclass_fields__} - {"error_low", "error_high"}
    assert found["volume"] == ("RETRAIN", "RETRAIN")
    few = {n: words for n, _, *words in list_sensitivities(replace(DRIFTED, volume=60))}
    assert len({*few["volume"]}) == 2 and few["volume"] == few["months"]
