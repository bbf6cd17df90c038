"""An independent reading of the rows finds what their READMEs promise."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest

from tunesmith_recipes_service.replies.generate import NAMES, PRODUCTS
from tunesmith_recipes_service.routing.generate import MESSAGES
from tunesmith_recipes_service.routing.generate import PRODUCTS as ROUTED_PRODUCTS

POLICY = {
    "late|Where is|waiting": "on its way, and we credit 10 EUR to your account",
    "screws|small parts|bolts": "we send the missing parts of the # free of charge",
    "green|size is wrong|Wrong color": "we exchange the # and pick up the wrong one",
    "send it back|return": "you can return the # within 30 days",
    "hurt|cut my hand": "A supervisor calls you about the # today",
}
PRODUCT = r"\b[A-Z][a-z]+(?:Desk|Shelf|Lamp|Chair|Bed|Table|Sofa|Stool|Rack|Rug)\b"


def read(path: str) -> list[dict[str, str]]:
    text = resources.files("tunesmith_recipes_service").joinpath(path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def choose_reply(message: str) -> str:
    if price := re.search(r"(\d+) EUR", message):
        refund = f"we refund {price[1]} EUR for the # within 5 days"
        return refund if int(price[1]) <= 100 else "a supervisor calls you about the # within 1 day"
    return next(reply for words, reply in POLICY.items() if re.search(words, message))


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_replies_follow_the_policy(part: str) -> None:
    for row in read(f"replies/{part}.jsonl"):
        product = re.search(PRODUCT, row["prompt"])[0]
        name = re.search(r" (\w+)$", row["prompt"])
        assert row["completion"].startswith(f"Hi {name[1]}, " if name else "Hi, ")
        assert choose_reply(row["prompt"]).replace("#", product) in row["completion"]
        assert row["completion"].endswith(" Your Hygge Home team")


@pytest.mark.parametrize("part", ["train", "test"])
def test_no_row_is_a_copy(part: str) -> None:
    for recipe in ("replies", "routing"):
        rows = [
            re.sub(r"\W+", "", row["prompt"].casefold()) for row in read(f"{recipe}/{part}.jsonl")
        ]
        assert len(rows) == len({*rows})


def test_the_test_rows_have_other_products_names_and_sentences() -> None:
    parts = ("train", "test")
    replies, routed = (
        ["\n".join(row["prompt"] for row in read(f"{recipe}/{part}.jsonl")) for part in parts]
        for recipe in ("replies", "routing")
    )
    for word in (*PRODUCTS["test"], *NAMES["test"]):
        assert word in replies[1] and word not in replies[0]
    assert {*NAMES["train"]}.isdisjoint(NAMES["test"])
    for word in ROUTED_PRODUCTS["test"]:
        assert word in routed[1] and not re.search(rf"\b{word}\b", routed[0])
    sentences = [sentence for team in MESSAGES.values() for sentence in team["test"]]
    for sentence in sentences:
        assert max(sentence.split("{product}"), key=len).strip() not in routed[0]
    assert len({*sentences}) == 32
