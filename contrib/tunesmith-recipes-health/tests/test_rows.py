"""An independent reading of the rows finds what their READMEs promise."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from importlib import resources

import pytest

from tunesmith_recipes_health.formulary.generate import PARTS
from tunesmith_recipes_health.orders.generate import OPENINGS

PACKAGE = resources.files("tunesmith_recipes_health")
FREQUENCIES = {
    "every six hours": "q6h", "every 6 hours": "q6h", "morning and evening": "2x/d",
    "twice": "2x/d", "three times": "3x/d", "each meal": "3x/d", "at night": "night",
    "bedtime": "night", "needed": "prn", "asks": "prn", "once": "1x/d", "daily": "1x/d",
    "every morning": "1x/d",
}  # fmt: skip
ROUTES = {
    "mouth": "PO", "orally": "PO", " po": "PO", "skin": "SC", "subcutaneously": "SC", "vein": "IV",
    "intravenously": "IV", "inhale": "INH", "tongue": "SL",
}  # fmt: skip
STOPPED = r"(?:stop the|no more|we can end the|discontinue) (.+?)(?: for good)?"
HELD = (
    r"(?:hold the|pause|do not give|no) (.+?)"
    r" (?:until the labs are back|for now|today|until tomorrow)"
)
STARTED = r"(?:start |please give |let us put this patient on |add |give some )?(insulin \w+|\w+).*"
DOSE = r"([\d,.]+) (milligram|mg|mcg|microgram|gram|g\b|units|puffs?)"
MICROGRAMS = {"milligram": 1_000, "mg": 1_000, "mcg": 1, "microgram": 1, "gram": 10**6, "g": 10**6}
ASKED = {
    "daily|maximum|How much": " mg", "keep|stored|delivery": "Store|Keep|kept",
    "prescribe|sign|order": "[Pp]rescri|order",
}  # fmt: skip
"""Patterns of questions about the formulary, and of the lines with their answers."""


def read(path: str) -> list[dict[str, str]]:
    text = PACKAGE.joinpath(path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write_dose(number: str, unit: str) -> str:
    amount = Decimal(number.replace(",", "")) * MICROGRAMS.get(unit, 1)
    if unit in MICROGRAMS:
        sizes = ((10**6, "g"), (1_000, "mg"), (1, "mcg"))
        size, unit = next(pair for pair in sizes if amount >= pair[0])
        amount /= size
    return f"{amount.normalize():f} {unit}"


def write_order(said: str) -> str:
    if found := re.fullmatch(STOPPED, said):
        return f"STOP {found[1]}"
    if found := re.fullmatch(HELD, said):
        return f"HOLD {found[1]}"
    drug = re.fullmatch(STARTED, said)[1]
    route = next((code for word, code in ROUTES.items() if word in said), "")
    often = next(code for word, code in FREQUENCIES.items() if word in said)
    dose = re.search(DOSE, said.replace("half a", "0.5"))
    if dose is None:
        return f"ASK dose of {drug}"
    return f"START {drug} {write_dose(*dose.groups())} {route} {often}"


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_orders_are_what_was_dictated(part: str) -> None:
    for row in read(f"orders/{part}.jsonl"):
        text = row["prompt"].removeprefix(next(filter(row["prompt"].startswith, OPENINGS), ""))
        said = re.split(r"\.(?: |$)", text.strip().casefold())
        assert "; ".join(map(write_order, filter(None, said))) == row["completion"]


def test_no_drug_of_the_test_rows_is_in_the_training_rows() -> None:
    names = r"(?:START|STOP|HOLD|dose of) (insulin \w+|\w+)"
    train, test = (
        {name for row in read(f"orders/{part}.jsonl") for name in re.findall(names, str(row))}
        for part in ("train", "test")
    )
    assert (len(train), len(test)) == (30, 20) and not train & test


def test_the_answers_are_in_the_formulary() -> None:
    pages = PACKAGE.joinpath("formulary/formulary").iterdir()
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    entries = dict(re.findall(r"## (\w+)\n(.*?)(?=\n#|\Z)", text, re.DOTALL))
    seen = set[str]()
    for part, count in PARTS.items():
        drugs = set()
        for row in read(f"formulary/{part}.jsonl"):
            (drug,) = entries.keys() & {*re.findall(r"\w+", row["prompt"])}
            (mark,) = (mark for word, mark in ASKED.items() if re.search(word, row["prompt"]))
            (line,) = (line for line in entries[drug].splitlines() if re.search(mark, line))
            assert row["completion"] in line
            drugs.add(drug)
        assert len(drugs) == count and not drugs & seen
        seen |= drugs
