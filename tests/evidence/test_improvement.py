"""Improved slices: what is called improved, better, worse or unclear, and how often wrongly."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from tunesmith_evidence.improvement import (
    OTHER_ROWS,
    SliceChange,
    judge_improvement,
    list_target_slices,
)
from tunesmith_evidence.slices.candidates import Slice
from tunesmith_evidence.slices.discover import split_in_halves
from tunesmith_evidence.slices.rows import ScoredRow

CHANNELS = ("mail", "web", "app", "chat")


def make_rows(rng: random.Random, rates: dict[str, float], count: int = 320) -> list[ScoredRow]:
    """Return rows in four channels, each right with the rate of its channel."""
    return [
        ScoredRow(
            number=n,
            source=f"f:{n}",
            prompt=(),
            expected="",
            output="",
            value=float(rng.random() < rates.get(CHANNELS[n % 4], 0.9)),
            columns=(("channel", CHANNELS[n % 4]),),
        )
        for n in range(count)
    ]


def redraw(
    rng: random.Random, rows: Sequence[ScoredRow], rates: dict[str, float]
) -> dict[int, float]:
    """Return the values of a child: nine in ten rows keep theirs where the rate stays."""
    after = {}
    for row in rows:
        channel = row.columns[0][1]
        keeps = channel not in rates and rng.random() < 0.9
        after[row.number] = row.value if keeps else float(rng.random() < rates.get(channel, 0.9))
    return after


def outcome(changes: Sequence[SliceChange], name: str) -> str:
    return next((c.outcome for c in changes if c.name == name), "not tested")


def test_a_repair_is_recognized_and_damage_elsewhere_is_named() -> None:
    rng = random.Random(1)
    improved = damaged = 0
    for _ in range(25):
        rows = make_rows(rng, {"mail": 0.4})
        assert list_target_slices(rows, True)[0].name == "channel = mail"
        after = redraw(rng, rows, {"mail": 0.95, "web": 0.4})
        changes = judge_improvement(rows, after, True)
        assert changes[0].is_target
        improved += outcome(changes, "channel = mail") == "improved"
        damaged += outcome(changes, "channel = web") == "worse"
    assert improved >= 23 and damaged >= 23


def test_a_slice_that_is_better_but_still_weak_is_not_improved() -> None:
    """From nothing right to half of the rows, beside nine of ten elsewhere."""
    rows = make_rows(random.Random(5), {"mail": 0.0})
    after = {row.number: row.value for row in rows}
    mail = [row.number for row in rows if row.columns[0][1] == "mail"]
    half = redraw(random.Random(6), rows, {"mail": 0.5})
    found = judge_improvement(rows, after | {n: half[n] for n in mail}, True)
    assert found[0].is_target and outcome(found, "channel = mail") == "better"
    found = judge_improvement(rows, after | dict.fromkeys(mail, 1.0), True)
    assert outcome(found, "channel = mail") == "improved"


def test_a_lucky_one_is_not() -> None:
    """Nothing is weak, and nothing is improved: the slices that look weakest are chosen by luck."""
    rng = random.Random(2)
    trials, improved, chosen = 120, 0, 0
    for _ in range(trials):
        rows = make_rows(rng, dict.fromkeys(CHANNELS, 0.7))
        after = {row.number: float(rng.random() < 0.7) for row in rows}
        changes = judge_improvement(rows, after, True)
        chosen += any(change.is_target for change in changes)
        improved += any(change.outcome == "improved" for change in changes)
    assert chosen > 15, "otherwise nothing is tested"
    assert improved <= trials * 0.05 + 3 * math.sqrt(trials * 0.05 * 0.95)


def test_only_the_half_that_was_not_collected_decides() -> None:
    rows = make_rows(random.Random(3), {"mail": 0.0})
    mail = Slice("channel = mail", "column", frozenset(range(0, 320, 4)))
    first, second = split_in_halves(rows)
    after = {row.number: row.value for row in rows} | {
        rows[i].number: 1.0 for i in first if i in mail.members
    }
    assert outcome(judge_improvement(rows, after, True, targets=[mail]), mail.name) == "unclear"
    after = {row.number: row.value for row in rows} | {
        rows[i].number: 1.0 for i in second if i in mail.members
    }
    changes = judge_improvement(rows, after, True, targets=[mail])
    assert outcome(changes, mail.name) == "improved"
    [target] = [change for change in changes if change.is_target]
    assert (target.before, target.after) == (0.0, 1.0)
    assert target.n == target.units == len(mail.members & set(second))
    assert outcome(changes, OTHER_ROWS) == "unclear"


def test_rows_that_the_child_does_not_have_are_skipped() -> None:
    rows = make_rows(random.Random(4), {})
    after = {row.number: row.value for row in rows[:100]}
    changes = judge_improvement(rows, after, True, targets=[])
    _, second = split_in_halves(rows)
    [rest] = [change for change in changes if change.name == OTHER_ROWS]
    assert rest.n == sum(i < 100 for i in second)
    assert judge_improvement(rows, {}, True, targets=[]) == []
