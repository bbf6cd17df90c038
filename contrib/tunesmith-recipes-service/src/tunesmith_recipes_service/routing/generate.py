"""Generate the rows of this recipe: ``python generate.py`` writes train.jsonl and test.jsonl.

A row is a message to an invented shop and the team that answers it. Test messages are other
sentences than training messages, about other products.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 13
ROWS = {"train": 30, "test": 20}
"""Rows of each team."""
PRODUCTS = {
    "train": ("desk", "lamp", "chair", "sofa", "shelf", "rug", "mirror", "wardrobe"),
    "test": ("bed", "table", "stool", "curtain", "bench", "cabinet"),
}
MESSAGES = {
    "billing": {
        "train": (
            "I was charged twice for the {product}",
            "Please send me the invoice for my {product}",
            "The amount on my card statement is too high",
            "Can I pay for the {product} in instalments?",
            "The discount for the {product} was not taken off the price",
            "My VAT number is missing on the bill",
        ),
        "test": (
            "Why did you take 240 EUR when the {product} costs 200?",
            "I need a receipt for the {product} for my tax return",
            "The payment for the {product} failed but the money is gone",
            "My gift card was not accepted at the checkout",
        ),
    },
    "delivery": {
        "train": (
            "Where is the {product} that I ordered last week?",
            "The courier left the {product} at the wrong house",
            "Can you deliver the {product} on a Saturday?",
            "The tracking of my parcel has not moved for days",
            "I am not at home tomorrow, please bring the {product} on Friday",
            "Does the driver carry the {product} to the fourth floor?",
        ),
        "test": (
            "The {product} should have been here on Monday",
            "Please change the address for the {product}, I have moved",
            "Nobody rang the bell, and now the {product} is back at the depot",
            "How long does shipping of a {product} take?",
        ),
    },
    "returns": {
        "train": (
            "I would like to send the {product} back",
            "The {product} does not match my room, how do I return it?",
            "When do I get the money for the {product} that I sent back?",
            "Please send me a return label",
            "I changed my mind about the {product}",
            "Can I exchange the {product} for a larger one?",
        ),
        "test": (
            "The {product} is not what I imagined, take it back please",
            "Who picks up the {product} that I no longer want?",
            "I returned the {product} two weeks ago and see no refund",
            "Is it possible to swap the {product} for another color?",
        ),
    },
    "damage": {
        "train": (
            "The {product} arrived with a deep scratch",
            "One leg of the {product} is broken",
            "The glass of the {product} is shattered",
            "There is a stain on the new {product}",
            "The {product} came with a dent in the side",
            "The box was crushed and the {product} is bent",
        ),
        "test": (
            "A corner of the {product} has been knocked off",
            "I unpacked the {product} and it is in pieces",
            "The surface of the {product} is cracked",
            "The fabric of the {product} is torn",
        ),
    },
    "assembly": {
        "train": (
            "There are two screws left over after I built the {product}",
            "The manual for the {product} skips step four",
            "Which tool do I need to put the {product} together?",
            "The holes of the {product} do not line up",
            "Can somebody build the {product} for me?",
            "The hinge of the {product} is missing in the bag of parts",
        ),
        "test": (
            "I do not understand picture six of the instructions for the {product}",
            "How do I mount the {product} on the wall?",
            "The bolts of the {product} are too short",
            "What does it cost if you put up the {product} at my place?",
        ),
    },
    "account": {
        "train": (
            "I cannot log in to my account",
            "Please change my e-mail address",
            "The link to reset my password does not work",
            "Delete my account and my data",
            "Stop sending me the newsletter",
            "My points do not show up in my profile",
        ),
        "test": (
            "Your site says that my password is wrong, but it is not",
            "I have two profiles, please merge them",
            "How do I unsubscribe from your mails?",
            "The code for signing in never reaches my phone",
        ),
    },
    "advice": {
        "train": (
            "Is the {product} also available in oak?",
            "How much weight does the {product} hold?",
            "Which {product} would go with a grey carpet?",
            "Can the {product} stay outside in the rain?",
            "How do I clean the {product}?",
            "When will the {product} be in stock again?",
        ),
        "test": (
            "What are the measurements of the {product}?",
            "Is there a {product} that suits a small room?",
            "Which wood is the {product} made of?",
            "Do you plan a {product} for children?",
        ),
    },
    "safety": {
        "train": (
            "The {product} tipped over and nearly hit my daughter",
            "I cut myself on the edge of the {product}",
            "The {product} gets hot and smells of smoke",
            "My son got his fingers caught in the {product}",
            "The {product} collapsed while I was sitting on it",
            "The paint of the {product} gives me a rash",
        ),
        "test": (
            "The {product} gave way and my back has hurt since",
            "A splinter of the {product} got into my hand",
            "The cable of the {product} sparked when I plugged it in",
            "My dog swallowed a loose cap of the {product}",
        ),
    },
}
OPENINGS = ("", "Hello, ", "Hi, ", "Good evening. ", "Dear team, ", "Hey! ")
ENDINGS = ("", ".", "!", ". Thank you", ". Please hurry", ". Regards", ". This is urgent")


def main() -> None:
    """Write the rows next to this file."""
    rng = random.Random(SEED)
    for part, count in ROWS.items():
        rows: dict[str, dict[str, str]] = {}
        for team, messages in MESSAGES.items():
            wanted = len(rows) + count
            while len(rows) < wanted:
                text = rng.choice(messages[part]).format(product=rng.choice(PRODUCTS[part]))
                end = rng.choice(ENDINGS)
                end = end.lstrip(".") if text.endswith("?") else end
                prompt = f"{rng.choice(OPENINGS)}{text}{end}"
                rows.setdefault(prompt.rstrip(".!"), {"prompt": prompt, "completion": team})
        chosen = [*rows.values()]
        rng.shuffle(chosen)
        text = "".join(json.dumps(row) + "\n" for row in chosen)
        Path(__file__).with_name(f"{part}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
