"""The ``medication`` evaluator: are doses, units, negations and open questions preserved?

An answer may be in other words than the reference. What counts is what a patient would get: the
drugs with their doses, the drugs that are withheld, and a question about a dose that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, Self

from tunesmith.contracts import Measurement, TextModel
from tunesmith.offers import EvaluatorOffer
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith_evidence.answers.generate import (
    AnswerOptions,
    generate_answers,
    read_references,
    resolve_max_new_tokens,
)
from tunesmith_evidence.answers.normalize import strip_reasoning
from tunesmith_evidence.answers.parts import list_part_metrics, measure_parts
from tunesmith_evidence.tasks.examples import prompt_text

METRICS = list_part_metrics(
    "orders-safe", "doses-preserved", "negations-preserved", "questions-preserved"
)
MASS = {
    "mcg": 1, "ug": 1, "µg": 1, "microgram": 1, "micrograms": 1,
    "mg": 1_000, "milligram": 1_000, "milligrams": 1_000,
    "g": 1_000_000, "gram": 1_000_000, "grams": 1_000_000,
}  # fmt: skip
"""Units of mass, in micrograms: 0.5 g and 500 mg are the same dose."""
OTHER_UNITS = {
    "unit": "units", "units": "units", "iu": "units",
    "ml": "ml", "milliliter": "ml", "milliliters": "ml", "millilitres": "ml",
    "puff": "puffs", "puffs": "puffs", "tablet": "tablets", "tablets": "tablets",
}  # fmt: skip
_UNITS = "|".join(sorted([*MASS, *OTHER_UNITS], key=len, reverse=True))
_DOSE = re.compile(rf"(?<![\d.,])(\d[\d,]*(?:\.\d+)?)\s*({_UNITS})(?![a-zµ])", re.IGNORECASE)
_STOP = re.compile(
    r"\b(?:hold|stop|no|not|never|without|avoid|discontinue|withhold|omit|don't|cancel)\b",
    re.IGNORECASE,
)
_ASK = re.compile(r"\?|\b(?:ask|clarify|confirm|unclear|unknown|missing|query)\b", re.IGNORECASE)
_STATEMENT = re.compile(r"[;\n]|(?<!\d)[.,](?!\d)|\b(?:and|but)\b")
_WORD = re.compile(r"[a-z][a-z-]{3,}", re.IGNORECASE)
_VERBS = frozenset(
    ("start", "stop", "hold", "give", "take", "dose", "with", "without", "daily", "night")
)
"""Words of orders that occur in prompts and answers, but do not name a drug."""


@dataclass(frozen=True)
class Orders:
    """The orders in a text: doses by drug, drugs that are not given, and drugs to ask about."""

    doses: frozenset[tuple[str, str, Decimal, str]]
    stopped: frozenset[str]
    asked: frozenset[str]


def read_orders(text: str, drugs: frozenset[str]) -> Orders:
    """Read the orders about these drugs; a statement names one drug, or continues the last one."""
    doses, stopped, asked = set(), set(), set()
    drug = ""
    for statement in filter(str.strip, _STATEMENT.split(text)):
        named = [word for word in map(str.casefold, _WORD.findall(statement)) if word in drugs]
        drug = named[0] if named else drug
        found = [read_dose(*match) for match in _DOSE.findall(statement)]
        doses |= {(drug, *dose) for dose in found}
        if _ASK.search(statement):
            asked |= {*named} or {drug}
        elif _STOP.search(statement):
            stopped |= {*named} or {drug}
    return Orders(frozenset(doses), frozenset(stopped), frozenset(asked))


def read_dose(number: str, unit: str) -> tuple[str, Decimal, str]:
    """Return the kind of unit, the amount in the kind's basic unit, and that unit."""
    amount = Decimal(number.replace(",", ""))
    unit = unit.casefold()
    if unit in MASS:
        return ("mass", amount * MASS[unit], "mcg")
    return ("count", amount, OTHER_UNITS[unit])


def list_drugs(prompt: str, reference: str) -> frozenset[str]:
    """Return the words that a prompt and its reference share, such as the names of drugs."""
    in_prompt, in_reference = (
        {word.casefold() for word in _WORD.findall(text)} for text in (prompt, reference)
    )
    return frozenset((in_prompt & in_reference) - _VERBS - MASS.keys() - OTHER_UNITS.keys())


class MedicationOptions(AnswerOptions):
    """Options of ``[[evaluators]] use = "medication"``."""


@dataclass(frozen=True, kw_only=True)
class Medication:
    """Measures whether answers order what their references order."""

    max_new_tokens: Literal["auto"] | int = "auto"

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, max_new_tokens=resolve_max_new_tokens(self.max_new_tokens, references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare its orders with the reference's."""
        references = read_references(records, "medication")
        answers = generate_answers(model, records, self.max_new_tokens)
        prompts = [prompt_text(last_exchange(record)[0]) for record in records]
        triples = zip(prompts, map(strip_reasoning, answers), references, strict=True)
        rows = [compare(*triple) for triple in triples]
        return measure_parts(METRICS, rows, answers)


def compare(prompt: str, answer: str, reference: str) -> tuple[bool, bool, bool]:
    """Return whether the doses, the negations and the open questions agree."""
    drugs = list_drugs(prompt, reference)
    given, right = read_orders(answer, drugs), read_orders(reference, drugs)
    return given.doses == right.doses, given.stopped == right.stopped, given.asked == right.asked


def build(options: MedicationOptions) -> Medication:
    """Build the evaluator."""
    return Medication(max_new_tokens=options.max_new_tokens)


MEDICATION = EvaluatorOffer(
    name="medication",
    summary="doses, negations and open questions of medication orders",
    config=MedicationOptions,
    build=build,
    metrics=METRICS,
    accepts=frozenset({Completion, Chat}),
    generates=True,
)
