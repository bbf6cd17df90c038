"""The share of wins at equal length: independent computation, symmetry, and known truths."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from tunesmith.contracts import Generation
from tunesmith.statistics import mean_interval
from tunesmith_evidence.judging.equal_length import LengthControl, measure_tokens


def control(wins: Sequence[float], differences: Sequence[int]) -> LengthControl:
    return LengthControl(wins, differences, [None] * len(wins))


def simulate(
    quality: float, slope: float, rows: int = 100, seed: int = 0, mean: float = 60
) -> LengthControl:
    """Draw wins whose logit is ``quality`` at equal length and rises with the length."""
    rng = random.Random(seed)
    differences = [round(rng.gauss(mean, 100)) for _ in range(rows)]
    wins = [float(rng.random() < expit(quality + slope * np.tanh(d / 100))) for d in differences]
    return control(wins, differences)


def share_of(found: LengthControl) -> tuple[float, float, float]:
    (measurement,) = found.measurements("m")
    assert measurement.interval is not None
    return (sum(measurement.values) / len(measurement.values), *measurement.interval)


def penalized_share(wins: Sequence[float], differences: Sequence[int]) -> float:
    """Maximize the penalized likelihood with a general optimizer, and return the share."""
    w, d = np.array(wins), np.array(differences, float)
    x = np.tanh(d / np.sqrt(np.mean(d**2)))

    def loss(coefficients: np.ndarray) -> float:
        z = coefficients[0] + coefficients[1] * x
        fit = np.sum(np.logaddexp(0, z) - w * z)
        return float(fit + 0.05 * np.sum(coefficients**2))

    return float(expit(minimize(loss, [0.0, 0.0], tol=1e-12).x[0]))


@pytest.mark.parametrize("seed", range(3))
def test_the_share_is_that_of_a_general_optimizer_ties_included(seed: int) -> None:
    found = simulate(0.7, 2.0, seed=seed)
    wins = [0.5 if row % 7 == 0 else win for row, win in enumerate(found.wins)]
    share, low, high = share_of(control(wins, found.differences))
    assert share == pytest.approx(penalized_share(wins, found.differences), abs=1e-5)
    assert low < share < high


def test_the_contribution_of_a_row_is_its_influence() -> None:
    """Leaving a row out moves the share by about its contribution, divided by the other rows."""
    found = simulate(0.7, 2.0)
    (measurement,) = found.measurements("m")
    share = penalized_share(found.wins, found.differences)
    for row in (0, 13, 57):
        kept = [other for other in range(100) if other != row]
        without = penalized_share(
            [found.wins[r] for r in kept], [found.differences[r] for r in kept]
        )
        assert (share - without) * 99 == pytest.approx(measurement.values[row] - share, abs=0.1)


def test_swapped_sides_mirror_the_share_and_order_does_not_matter() -> None:
    found = simulate(0.7, 2.0)
    share, low, high = share_of(found)
    swapped = control([1 - win for win in found.wins], [-d for d in found.differences])
    assert share_of(swapped) == pytest.approx((1 - share, 1 - high, 1 - low), abs=1e-6)
    rows = random.Random(1).sample(range(100), 100)
    mixed = control([found.wins[r] for r in rows], [found.differences[r] for r in rows])
    assert share_of(mixed) == pytest.approx((share, low, high), abs=1e-6)


def test_wins_by_length_alone_are_explained_by_length() -> None:
    """The longer answer wins mostly, and answers are mostly longer: the raw rate looks good."""
    found = simulate(0.0, 3.0)
    assert mean_interval(found.wins).low > 0.5
    details = found.details("its answers are")
    assert "at equal length, it would be" in str(details["explained_by_length"])
    assert details["finding"] == details["explained_by_length"]
    assert details["beyond_length"] is False


def test_wins_by_quality_are_not_explained_by_length() -> None:
    details = simulate(1.5, 1.0).details("its answers are")
    assert details == {"explained_by_length": "", "beyond_length": True}


def test_no_share_is_extrapolated_from_answers_that_are_all_longer() -> None:
    found = control([1.0] * 80 + [0.0] * 20, [50] * 95 + [-50] * 5)
    assert list(found.measurements("m")) == []
    assert found.details("its answers are")["explained_by_length"] == (
        "length may explain the result: its answers are longer in 95 of 100 rows"
    )
    even = control([1.0, 0.0] * 50, [50] * 95 + [-50] * 5)
    assert even.details("its answers are")["explained_by_length"] == "", "nothing to explain"


def test_length_that_decides_every_row_gives_a_wide_interval_around_one_half() -> None:
    differences = [d for d in range(-50, 51) if d]
    share, low, high = share_of(control([float(d > 0) for d in differences], differences))
    assert share == pytest.approx(0.5, abs=1e-6) and low < 0.3 and high > 0.7


def test_constant_wins_and_equal_lengths_are_plain_means() -> None:
    share, low, high = share_of(control([1.0] * 30, [(-1) ** row * row for row in range(30)]))
    assert share == 1.0 and 0.8 < low < 0.9 and high == 1.0
    wins = [1.0] * 60 + [0.0] * 40
    share, low, high = share_of(control(wins, [0] * 100))
    assert share == pytest.approx(0.6, abs=0.001) and low == pytest.approx(0.5, abs=0.01)


def test_rows_of_a_group_widen_the_interval() -> None:
    found = simulate(0.7, 2.0, rows=100)
    wins = [win for win in found.wins for _ in range(4)]
    differences = [d for d in found.differences for _ in range(4)]
    groups = [str(row) for row in range(100) for _ in range(4)]
    _, low, high = share_of(LengthControl(wins, differences, groups))
    _, alone_low, alone_high = share_of(control(wins, differences))
    assert high - low > 1.5 * (alone_high - alone_low)


def test_wins_by_length_alone_rarely_look_like_quality() -> None:
    """At most one of 40 intervals of equal models should exclude one half from above."""
    found = [share_of(simulate(0.0, 3.0, seed=seed)) for seed in range(60)]
    assert sum(low > 0.5 for _, low, _ in found) <= 5


def test_tokens_of_answers() -> None:
    measured = measure_tokens([Generation("a b", 3, "stop"), Generation("", 1, "stop")])
    assert (measured.metric, measured.values) == ("answer-tokens", (3.0, 1.0))
