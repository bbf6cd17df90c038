"""Generate the rows of this recipe: ``python generate.py`` writes train.jsonl and test.jsonl.

A row is a message to an invented shop for furniture, and the reply that its policy asks for. The
policy is in no prompt: it has to be learned from the replies. Test rows have other products,
customers and amounts, and about a third of them are worded in a way that no training row is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TRAIN_ROWS, TEST_ROWS = 300, 120
SEED = 11
PRODUCTS = {
    "train": (
        "KoraDesk", "LindenShelf", "NordLamp", "PalmoChair", "VistaBed", "TallinTable",
        "OrsoSofa", "MikaStool", "BirkaRack", "SennaRug",
    ),
    "test": ("AlvaDesk", "FjordLamp", "ZenoChair", "MariBed", "KumoSofa", "ElboTable"),
}  # fmt: skip
NAMES = {
    "train": ("Ana", "Bashir", "Chloe", "Dmitri", "Elif", "Femi", "Greta", "Hiro", "Ines", "Jonas"),
    "test": ("Kavya", "Luca", "Mona", "Noor", "Oskar", "Petra"),
}
MAX_REFUND = 100
"""Above this amount, a person decides about a refund."""


@dataclass(frozen=True)
class Case:
    """A kind of complaint, with what customers write and what the shop answers."""

    messages: Sequence[str]
    reply: str
    reply_above: str = ""
    """The reply if the price is above the largest refund."""


CASES = (
    Case(
        (
            "My {product} arrived broken. I paid {price} EUR.",
            "The {product} for {price} EUR came with a cracked leg.",
            "I unpacked the {product} ({price} EUR) and it is damaged.",
        ),
        "we refund {price} EUR for the {product} within 5 days. Please keep the box until then.",
        "a supervisor calls you about the {product} within 1 day. Please keep the box until then.",
    ),
    Case(
        (
            "The {product} still has not come. It is two weeks late!",
            "Where is my {product}? You promised it for last Monday.",
            "I have been waiting for the {product} for ages.",
        ),
        "the {product} is on its way, and we credit 10 EUR to your account for the delay.",
    ),
    Case(
        (
            "There are screws missing for the {product}.",
            "My {product} came without the small parts.",
            "I cannot assemble the {product}, half of the bolts are not there.",
        ),
        "we send the missing parts of the {product} free of charge. They arrive within 3 days.",
    ),
    Case(
        (
            "You sent me a green {product}, I ordered a grey one.",
            "This is not the {product} that I chose, the size is wrong.",
            "Wrong color! The {product} was meant to be white.",
        ),
        "we exchange the {product} and pick up the wrong one. The courier comes within 4 days.",
    ),
    Case(
        (
            "I do not like the {product}. Can I send it back?",
            "The {product} does not fit into my room, I would like to return it.",
            "Please tell me how to return the {product}.",
        ),
        "you can return the {product} within 30 days. We have sent the label by e-mail.",
    ),
    Case(
        (
            "The {product} fell over and hurt my son.",
            "Your {product} collapsed under me and now my back hurts.",
            "I cut my hand on a sharp edge of the {product}.",
        ),
        "we are sorry that somebody was hurt. A supervisor calls you about the {product} today.",
    ),
)
GREETINGS = ("", "Hello, ", "Hi there. ", "Good morning. ", "Dear team, ")
ENDINGS = ("", " Thanks, {name}", " Regards, {name}", " {name}", " What now? {name}")


def make_row(part: str, rng: random.Random) -> dict[str, str]:
    """Return a message with its reply."""
    case, price = rng.choice(CASES), rng.randrange(15, 240)
    values = {
        "product": rng.choice(PRODUCTS[part]),
        "price": f"{price}",
        "name": rng.choice(NAMES[part]),
    }
    ending = rng.choice(ENDINGS)
    messages = case.messages if part == "test" else case.messages[:-1]
    text = (rng.choice(GREETINGS) + rng.choice(messages) + ending).format(**values)
    reply = case.reply_above if case.reply_above and price > MAX_REFUND else case.reply
    who = f"Hi {values['name']}" if "{name}" in ending else "Hi"
    return {"prompt": text, "completion": f"{who}, {reply.format(**values)} Your Hygge Home team"}


def main() -> None:
    """Write the rows next to this file."""
    rng = random.Random(SEED)
    for part, count in {"train": TRAIN_ROWS, "test": TEST_ROWS}.items():
        rows: dict[str, dict[str, str]] = {}
        while len(rows) < count:
            row = make_row(part, rng)
            rows.setdefault(row["prompt"], row)
        text = "".join(json.dumps(row) + "\n" for row in rows.values())
        Path(__file__).with_name(f"{part}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
