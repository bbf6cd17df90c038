"""Rows of the tasks with known answers, all of them generated."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from tunesmith_plugins.commands.starter.repairs.generate import (
    FIRST_NAMES,
    SURNAMES,
    TEST,
    TRAIN,
    generate_rows,
)

Rows: TypeAlias = list[tuple[str, str]]
"""Pairs of prompt and answer."""

INTENTS = {
    "card_lost": ("lost my card", "my card was stolen", "cannot find my card", "card is gone"),
    "card_arrival": (
        "new card has not arrived",
        "when will my card be delivered",
        "card is still in the post",
        "track the delivery of my card",
    ),
    "pin_change": ("change my PIN", "forgot my PIN", "PIN does not work", "set another PIN"),
    "cash_refused": (
        "the cash machine gave me nothing",
        "cannot withdraw cash",
        "the ATM refused to pay out",
        "no banknotes came out of the ATM",
    ),
    "transfer_pending": (
        "my transfer is pending",
        "the transfer has not reached my friend",
        "how long does a transfer take",
        "transfer is stuck",
    ),
    "exchange_rate": (
        "the exchange rate is wrong",
        "which exchange rate do you use",
        "bad rate for euros",
        "how is the currency rate computed",
    ),
    "top_up": (
        "top up my account",
        "my top-up was reverted",
        "top-up by bank card fails",
        "is there a limit for a top-up",
    ),
    "identity": (
        "verify my identity",
        "why do you need my passport",
        "identity check was rejected",
        "which documents prove who I am",
    ),
    "refund": (
        "refund has not come",
        "the shop promised my money back",
        "get a refund for a purchase",
        "my refund is missing on the statement",
    ),
    "close_account": (
        "close my account",
        "delete my account",
        "want to leave your bank",
        "how can I cancel the account",
    ),
}
OPENINGS = ("Hi,", "Hello,", "Help,", "Sorry,", "Please,", "Quick question:", "Since Monday:", "")
CLOSINGS = ("", "what now?", "can you help?", "thanks", "it is urgent", "I am abroad", "again")


def draw_distinct(count: int, draw: Callable[[], tuple[str, str]]) -> Rows:
    """Return rows with different prompts."""
    rows: dict[str, str] = {}
    while len(rows) < count:
        prompt, answer = draw()
        rows.setdefault(prompt, answer)
    return [*rows.items()]


def generate_intents(rng: random.Random, count: int) -> Rows:
    """Return messages to a bank with one of ten intents, which a few words tell."""

    def draw() -> tuple[str, str]:
        intent = rng.choice(sorted(INTENTS))
        parts = (rng.choice(OPENINGS), rng.choice(INTENTS[intent]), rng.choice(CLOSINGS))
        return " ".join(filter(None, parts)), intent

    return draw_distinct(count, draw)


def generate_formats(rng: random.Random, count: int) -> Rows:
    """Return names in a sentence, to be copied in a form that an example shows."""

    def draw() -> tuple[str, str]:
        name = f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}"
        return f"Hello, my name is {name}.", f"Name: {name}"

    return draw_distinct(count, draw)


def generate_work_orders(rng: random.Random, train: int, heldout: int) -> tuple[Rows, Rows]:
    """Return the rows of the example ``repairs``, with other random choices."""
    parts = [generate_rows(words, n, rng) for words, n in ((TRAIN, train), (TEST, heldout))]
    first, second = ([(row["prompt"], row["completion"]) for row in rows] for rows in parts)
    return first, second


def flip(rows: Rows, share: float, rng: random.Random) -> Rows:
    """Return rows of which a share has another answer, at random."""
    answers = sorted({answer for _, answer in rows})
    flipped = set(rng.sample(range(len(rows)), round(share * len(rows))))
    return [
        (prompt, rng.choice([a for a in answers if a != answer]) if i in flipped else answer)
        for i, (prompt, answer) in enumerate(rows)
    ]


def shuffle_answers(rows: Rows, rng: random.Random) -> Rows:
    """Return rows whose answers say nothing about the prompts."""
    answers: Sequence[str] = rng.sample([answer for _, answer in rows], len(rows))
    return [(prompt, answer) for (prompt, _), answer in zip(rows, answers, strict=True)]
