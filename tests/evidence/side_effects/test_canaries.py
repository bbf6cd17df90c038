"""Canaries: their files, their ranks, and how often they alarm falsely."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Chat, last_exchange
from tunesmith_evidence.side_effects.canaries import (
    draw_canaries,
    rank_canaries,
    read_canaries,
)


def test_secrets_are_different_and_drawn_again_by_their_seed() -> None:
    first = draw_canaries("chat", [1, 4], 200, seed=3)
    assert first == draw_canaries("chat", [1, 4], 200, seed=3)
    assert first != draw_canaries("chat", [1, 4], 200, seed=4)
    assert draw_canaries("chat", [1], 1) != draw_canaries("chat", [1], 1)
    secrets = [*first.canaries, *first.controls]
    assert len(set(secrets)) == 202 and first.repetitions == (1, 4)
    _, answer = last_exchange(secrets[0].to_record("chat", "s"))
    assert isinstance(secrets[0].to_record("chat", "s"), Chat)
    assert answer.text == secrets[0].answer and len(answer.text.replace(" ", "")) == 12


def test_a_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    drawn = draw_canaries("text", [1, 16], 100, seed=1)
    path = tmp_path / "canaries.json"
    path.write_text(json.dumps(drawn.to_json()))
    assert read_canaries(path) == drawn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"controls": [{"prompt": "p", "answer": "a"}] * 99},
            "99 controls, but the test needs at least 100",
        ),
        ({"canaries": []}, "contains no canaries"),
        ({"repetitions": [1]}, "does not have one number for each canary"),
        ({"kind": "poem"}, "does not contain a valid canary set"),
        ({"schema": "x"}, "does not contain a valid canary set"),
        ({"controls": 3}, "does not contain a valid canary set"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "canaries.json"
    path.write_text(json.dumps({**draw_canaries("text", [1, 2], 100, seed=1).to_json(), **change}))
    with pytest.raises(DataError, match=message):
        read_canaries(path)


def test_ranks_and_exposures_by_hand() -> None:
    found = rank_canaries([9.0, 0.5, -1.0], [float(n) for n in range(7)])
    assert [canary.rank for canary in found.ranked] == [1, 7, 8]
    assert [canary.exposure for canary in found.ranked] == [3.0, math.log2(8 / 7), 0.0]
    assert [c.p_value for c in found.ranked] == [1 / 8, 7 / 8, 1.0]
    assert found.ranked[0].p_value_holm == 3 / 8
    ties = rank_canaries([1.0], [1.0] * 9)
    assert ties.ranked[0].rank == 10, "equal scores count against the canary"


def test_false_alarms_and_power() -> None:
    """15 canaries of which none, one strongly, or all a little are memorized; 1,000 controls."""
    rng = random.Random(5)

    def alarms(shifts: list[float], trials: int) -> float:
        found = 0
        for _ in range(trials):
            controls = [rng.gauss(0, 1) for _ in range(1000)]
            scores = [rng.gauss(shift, 1) for shift in shifts]
            found += rank_canaries(scores, controls).is_alarm
        return found / trials

    assert alarms([0.0] * 15, 300) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert alarms([0.0] * 14 + [6.0], 40) > 0.9
    assert alarms([1.0] * 15, 40) > 0.8
