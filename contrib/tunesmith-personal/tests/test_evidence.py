"""Decisions per user: by hand, and over a thousand simulated users."""

from __future__ import annotations

import random
from statistics import NormalDist

import pytest

from tunesmith_personal.evidence import (
    Gain,
    choose_baselines,
    compute_probabilities,
    decide_out_of_fold,
)


def test_a_probability_by_hand() -> None:
    """One user with four wins, one with four losses: equal errors, so the spread is easy."""
    found = compute_probabilities({"ann": [1.0] * 4, "ben": [-1.0] * 4})
    mean, error = 4 / 6, (5 / 6 - 16 / 36) / 6
    spread = mean * mean - error
    expected = NormalDist().cdf(mean / error**0.5 * (spread / (spread + error)) ** 0.5)
    assert found["ann"] == pytest.approx(expected) and expected > 0.95
    assert found["ben"] == pytest.approx(1 - expected)


def test_an_interval_by_hand() -> None:
    """Nine wins, one loss and ten ties, by the formula of Agresti and Min."""
    found = Gain.measure([1.0] * 9 + [-1.0] + [0.0] * 10)
    win, loss, rows = 9.5, 1.5, 22
    mean, error = (win - loss) / rows, (win + loss - (win - loss) ** 2 / rows) ** 0.5 / rows
    assert found.interval == pytest.approx((mean - 1.959964 * error, mean + 1.959964 * error))
    assert Gain.measure([1.0]).interval[1] == 1.0


def test_without_a_spread_nobody_gains() -> None:
    assert compute_probabilities({}) == {}
    found = compute_probabilities({f"u{n}": [1.0, -1.0, 0.0, 0.0] for n in range(9)})
    assert set(found.values()) == {0.5}


def test_others_gains_are_no_evidence() -> None:
    """A user without a gain stays below one half, whatever the others gain."""
    others = {f"u{n}": [1.0] * 8 for n in range(100)}
    found = compute_probabilities({**others, "ann": [1.0, -1.0] * 4, "ben": [-1.0] + [0.0] * 7})
    assert found["ann"] == 0.5 and found["ben"] < 0.5 and found["u0"] > 0.95


def test_the_baseline_of_a_user_is_shrunk_towards_that_of_all() -> None:
    """One lucky row does not choose another baseline; ten rows do."""
    scores = {f"u{n}": {"a": [1.0] * 4, "b": [0.0] * 4} for n in range(20)}
    lucky = {"a": [0.0], "b": [1.0]}
    sure = {"a": [0.0] * 10, "b": [1.0] * 10}
    found = choose_baselines(
        {**scores, "lucky": lucky, "sure": sure, "none": {"a": [], "b": []}}, ["a", "b"]
    )
    assert found["lucky"] == "a" and found["sure"] == "b" and found["none"] == "a"
    assert choose_baselines({"x": {"a": [], "b": []}}, ["b", "a"]) == {"x": "b"}


SHARES = {  # share of users with a true gain; the others have none, or lose
    "nobody gains": 0.0,
    "a fifth gains": 0.2,
    "most gain": 0.8,
}


@pytest.mark.parametrize("rows", [4, 6, 12])
@pytest.mark.parametrize("discordance", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES.keys())
def test_at_most_five_percent_get_an_adapter_that_does_not_help(
    share: float, discordance: float, rows: int
) -> None:
    """Of a thousand users, also counted among the users without a gain alone."""
    rng = random.Random(f"{share} {discordance} {rows}")
    wins = {}
    for n in range(1000):
        gains = n < share * 1000
        win = discordance * (0.9 if gains else 0.5)
        wins[f"u{n}"] = (gains, win, discordance - win)
    differences = {
        user: [
            1.0 if (x := rng.random()) < win else -1.0 if x < win + loss else 0.0
            for _ in range(rows)
        ]
        for user, (_, win, loss) in wins.items()
    }
    found = compute_probabilities(differences)
    false = [user for user, p in found.items() if p >= 0.95 and not wins[user][0]]
    assert len(false) <= 0.05 * 1000
    assert len(false) <= 0.065 * (1 - share) * 1000  # 5 %, and room for chance


def test_a_clear_gain_is_found() -> None:
    rng = random.Random(0)
    differences = {
        f"u{n}": [float(rng.random() < (0.7 if n < 200 else 0.0)) for _ in range(10)]
        for n in range(1000)
    }
    found = compute_probabilities(differences)
    assert sum(found[f"u{n}"] >= 0.95 for n in range(200)) >= 180


def test_a_row_is_not_scored_by_a_decision_that_it_made() -> None:
    """Half of the users gain, half lose nothing: chosen and scored on the same rows, users without
    a gain would seem to have one."""
    rng = random.Random(1)
    differences = {
        f"u{n}": [rng.choice((1.0, -1.0, 0.0) if n % 2 else (1.0, 1.0, 0.0)) for _ in range(6)]
        for n in range(2000)
    }
    found = compute_probabilities(differences)
    none = [u for n, u in enumerate(differences) if n % 2]
    same = sum(sum(differences[u]) for u in none if found[u] >= 0.8)
    decided = decide_out_of_fold(differences, 0.8)
    other = sum(
        value
        for u in none
        for value, is_own in zip(differences[u], decided[u], strict=True)
        if is_own
    )
    assert same > 200 and abs(other) < 0.4 * same


def test_the_decision_of_a_row_is_that_of_the_other_rows() -> None:
    differences = {"ann": [1.0, 1.0, -1.0, 1.0], "ben": [-1.0] * 4, "cem": [1.0], "dan": []}
    decided = decide_out_of_fold(differences, 0.6)
    for row in range(4):
        left = {u: [v for n, v in enumerate(vs) if n != row] for u, vs in differences.items()}
        found = compute_probabilities(left)
        assert decided["ann"][row] == (found["ann"] >= 0.6)
    assert decided["ben"] == [False] * 4 and decided["dan"] == []
