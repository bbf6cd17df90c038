"""Measure how often weak slices are found, and how often one is reported where there is none.

``python -m tests.benchmarks.slices`` prints the tables of docs/reference/measurements.md. Texts,
columns and labels are made up; the outcome of each row is drawn at random. An injected slice is the
rows of one column value, one label, or one topic, with another share of right answers.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from tunesmith_evidence.slices.candidates import Slice, find_candidates
from tunesmith_evidence.slices.discover import find_weak_slices
from tunesmith_evidence.slices.rows import ScoredRow

TOPICS = {
    "cards": ["card", "lost", "stolen", "blocked", "pin", "chip", "cash", "machine"],
    "travel": ["flight", "hotel", "airport", "luggage", "seat", "booking", "delayed", "train"],
    "heating": ["boiler", "heating", "radiator", "cold", "thermostat", "water", "pressure", "pump"],
    "phones": ["phone", "screen", "battery", "charger", "signal", "network", "roaming", "cable"],
    "tax": ["tax", "return", "deadline", "refund", "form", "income", "receipt", "office"],
}
LABELS = ("urgent", "normal", "later", "spam")
WORDS = [
    *("please", "help", "me", "with", "my", "the", "a", "this", "is", "not", "since", "yesterday"),
    *("today", "can", "you"),
]
RIGHT = 0.9
SIZES = (240, 400, 600)

Inject = Callable[[ScoredRow], bool]
PLANTS: dict[str, tuple[float, float, Inject]] = {
    "column, 20 % of the rows": (0.2, 0.6, lambda row: dict(row.columns)["channel"] == "mail"),
    "label, 15 % of the rows": (0.15, 0.6, lambda row: row.expected == "spam"),
    "topic, 20 % of the rows": (0.2, 0.6, lambda row: dict(row.columns)["id"] == "heating"),
}
"""By name: about the share of the rows, the share of right answers among them, and the rows."""


def make_rows(count: int, rng: random.Random, groups: int = 0) -> list[ScoredRow]:
    """Return rows without outcomes; the topic is in a column with the name id, which is removed."""
    rows = []
    for number in range(count):
        topic = rng.choice([*TOPICS])
        words = rng.choices(TOPICS[topic], k=4) + rng.choices(WORDS, k=rng.randrange(3, 12))
        rng.shuffle(words)
        channel = rng.choices(["web", "app", "mail"], [0.5, 0.3, 0.2])[0]
        label = rng.choices(LABELS, [0.4, 0.3, 0.15, 0.15])[0]
        rows.append(
            ScoredRow(
                number=number,
                source=f"data.jsonl:{number + 1}",
                prompt=(("user", " ".join(words)),),
                expected=label,
                output=label,
                value=1.0,
                group=f"g{rng.randrange(groups)}" if groups else None,
                columns=(("channel", channel), ("id", topic)),
            )
        )
    return rows


def hide_topic(rows: Sequence[ScoredRow]) -> list[ScoredRow]:
    """Return the rows as a run has them."""
    return [replace(row, columns=row.columns[:1]) for row in rows]


def draw(
    rows: Sequence[ScoredRow], rng: random.Random, inject: Inject, share: float
) -> list[ScoredRow]:
    """Return the rows with outcomes: an injected slice has its own share of right answers.

    The rows of a group have outcomes that are alike, which chance makes look like slices.
    """
    luck = {row.group: rng.choice((-0.09, 0.09)) for row in rows if row.group is not None}
    return [
        replace(
            row,
            value=float(
                rng.random() < (share if inject(row) else RIGHT) + luck.get(row.group, 0.0)
            ),
        )
        for row in rows
    ]


def false_alarms(rows: int, simulations: int, seed: int, groups: int = 0) -> float:
    """Return the share of clean simulations in which a slice is reported."""
    rng, alarms, data = random.Random(seed), 0, list[ScoredRow]()
    candidates: list[Slice] = []
    for number in range(simulations):
        if number % 50 == 0:
            data = make_rows(rows, rng, groups)
            candidates = find_candidates(hide_topic(data))
        drawn = hide_topic(draw(data, rng, lambda row: False, RIGHT))
        weak = find_weak_slices(drawn, True, candidates=candidates, seed=number)
        alarms += any(found.is_confirmed for found in weak)
    return alarms / simulations


def recall(name: str, rows: int, simulations: int, seed: int) -> float:
    """Return the share of simulations in which an injected slice is found.

    It is found if a confirmed slice has at least half of its rows, and half of that slice are its.
    """
    _, share, inject = PLANTS[name]
    rng, found, data = random.Random(seed), 0, list[ScoredRow]()
    candidates: list[Slice] = []
    for number in range(simulations):
        if number % 20 == 0:
            data = make_rows(rows, rng)
            candidates = find_candidates(hide_topic(data))
        injected = {i for i, row in enumerate(data) if inject(row)}
        drawn = hide_topic(draw(data, rng, inject, share))
        weak = find_weak_slices(drawn, True, candidates=candidates, seed=number)
        found += any(
            len(w.slice.members & injected) >= max(len(w.slice.members), len(injected)) / 2
            for w in weak
            if w.is_confirmed
        )
    return found / simulations


def print_false_alarms(simulations: int) -> None:
    """Print how often a slice is reported where none is weak."""
    print("| rows | no weak slice, one is reported |\n| --- | --- |")
    for rows in SIZES:
        print(f"| {rows} | {100 * false_alarms(rows, simulations, 1):.1f} % |", flush=True)
    grouped = false_alarms(SIZES[-1], simulations, 2, 100)
    print(f"| {SIZES[-1]} in 100 groups | {100 * grouped:.1f} % |\n", flush=True)


def print_recall(simulations: int) -> None:
    """Print how often injected slices are found."""
    columns = " | ".join(f"{rows} rows" for rows in SIZES)
    print(f"| injected slice | {columns} |\n| --- |{' --- |' * len(SIZES)}")
    for name, (_, share, _) in PLANTS.items():
        cells = [f"{100 * recall(name, rows, simulations, 3):.0f} %" for rows in SIZES]
        print(f"| {name}: {100 * share:.0f} % right | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=1_000, help="of clean rows")
    parser.add_argument("--injected", type=int, default=200, help="simulations of injected slices")
    options = parser.parse_args()
    if options.simulations:
        print_false_alarms(options.simulations)
    if options.injected:
        print_recall(options.injected)


if __name__ == "__main__":
    main()
