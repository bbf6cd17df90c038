"""An independent reading of the rows finds what their READMEs promise."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest

from tunesmith_recipes_legal.clauses.generate import CLAUSES, PARTIES
from tunesmith_recipes_legal.reviews.generate import PARTIES as REVIEW_PARTIES

PLAYBOOK = {
    "HIGH liability": "no liability whatsoever|All liability|waives every claim",
    "HIGH law": "law of a country|seat of (the|Provider)|Disputes",
    "HIGH data": "share personal|own purposes|third parties",
    "HIGH exclusivity": "buys all|is exclusive|must not engage",
    "MEDIUM renewal": "renews itself|extended automatically|new term",
    "MEDIUM changes": "at any time|note on its website|without consent",
}


def read(path: str) -> list[dict[str, str]]:
    text = resources.files("tunesmith_recipes_legal").joinpath(path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def judge(clause: str) -> str:
    if days := re.search(r"(\d+) days", clause):
        if re.search("Invoices|pays|Fees", clause):
            return "MEDIUM payment" if int(days[1]) < 14 else ""
        return "MEDIUM notice" if int(days[1]) > 30 else ""
    return next((risk for risk, words in PLAYBOOK.items() if re.search(words, clause)), "")


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_notes_follow_the_playbook(part: str) -> None:
    for row in read(f"reviews/{part}.jsonl"):
        notes = []
        for number, clause in re.findall(r"(\d+\.\d+) (.*?)(?= \d+\.\d+ |$)", row["prompt"]):
            if found := judge(clause):
                notes.append(found.replace(" ", f" {number} "))
        assert row["completion"] == ("; ".join(notes) or "OK")


@pytest.mark.parametrize("recipe, parties", [("reviews", REVIEW_PARTIES), ("clauses", PARTIES)])
def test_no_party_of_the_test_rows_is_in_the_training_rows(
    recipe: str, parties: dict[str, list[str]]
) -> None:
    train, test = (
        "\n".join(row["prompt"].casefold() for row in read(f"{recipe}/{part}.jsonl"))
        for part in ("train", "test")
    )
    for party in parties["test"]:
        assert party.casefold() in test and party.casefold() not in train


def test_no_clause_of_the_test_rows_is_in_the_training_rows() -> None:
    sentences = [s for kind in CLAUSES.values() for s in kind["test"]]
    train = "\n".join(row["prompt"] for row in read("clauses/train.jsonl"))
    for sentence in sentences:
        assert max(sentence.split("{party}"), key=len).strip() not in train
    assert len(sentences) == len({*sentences}) == 32
