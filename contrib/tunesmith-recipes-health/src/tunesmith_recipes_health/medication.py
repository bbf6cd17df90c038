"""The ``medication`` evaluator: are doses, units, negations and open questions preserved?

An answer need not have the words of the reference. What counts is what a patient would get: the
drugs with their doses, the drugs that are withheld, and a question about a dose that is missing.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal

from tunesmith.records import Completion
from tunesmith_evidence.answers.generate import AnswerOptions
from tunesmith_evidence.answers.numbers import NUMBER, read_number
from tunesmith_evidence.answers.parts import offer_parts_evaluator

UNITS = {
    **dict.fromkeys(("mcg", "ug", "μg", "microgram"), (1, "mcg")),
    **dict.fromkeys(("mg", "milligram"), (1_000, "mcg")),
    **dict.fromkeys(("g", "gram"), (1_000_000, "mcg")),
    **dict.fromkeys(("unit", "iu", "u"), (1, "unit")),
    **dict.fromkeys(("ml", "milliliter", "millilitre"), (1, "ml")),
    **{name: (1, name) for name in ("puff", "tablet", "capsule", "drop")},
}
"""The factor to a basic unit, and that unit: 0.5 g and 500 mg are the same dose."""
_UNIT = rf"({'|'.join(sorted(UNITS, key=len, reverse=True))})s?(?![a-zμ])"
_DOSE = re.compile(
    # A range and a multiple are not the dose that the number before the unit gives.
    rf"(?<![\d.,/])(?:({NUMBER})\s*(?:[-–x×]|to|or)\s*)?({NUMBER})[\s-]*{_UNIT}"
    r"(?:\s*(?:/|per)\s*(kg|m2|ml)\b)?",
    re.IGNORECASE,
)
_ONES = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_IN_WORDS = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})[ -]?)?"
    rf"(?P<ones>{'|'.join(sorted(_ONES, key=len, reverse=True))})?"
    rf"(?<=[a-z])(?=[\s-]+{_UNIT})",
    re.IGNORECASE,
)
"""Matches a number in words before a unit."""
_NOT = r"(?:not|never|don['’]?t|no longer)"
_VERB = (
    r"(?:(?:h[oe]ld|stop|paus|discontinu|withh[oe]ld|omit|cancel|suspend|skip|ceas|avoid|interrupt)\w*"
    r"|(?:terminat|finish)\w*|wait\b|off\b|end(?:s|ed)?\b|d/c\b|(?:leave|left) out\b)"
)
_NOT_STOPPED = re.compile(rf"\b{_NOT} (?:(?:be|on|to) )?{_VERB}", re.IGNORECASE)
_STOP = re.compile(rf"\b(?:{_VERB}|no\b|none\b|neither\b|{_NOT}\b)", re.IGNORECASE)
_ASK = re.compile(
    r"\?|\b(?:ask|clarify|confirm|unclear|unknown|missing|query|specify|tb[cd]|to be determined)\b",
    re.IGNORECASE,
)
_DOSE_NAME = re.compile(r"\b(?:dose|dosage|strength|amount)\b", re.IGNORECASE)
_LACK = re.compile(
    r"\b(?:no|not|without|lack\w*|absent|needs?|needed|required|to be|which|what|please)\b",
    re.IGNORECASE,
)
"""Matches what is said about a dose that is not stated."""
_NOT_GIVEN = re.compile(rf"\b(?:{_NOT} (?:give|take|administer)|(?:give|take) no)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[;\n!]|\s/\s|(?<=\?)|\.(?!\d)|(?<!\w)\d\)\s")
_PART = re.compile(r",(?!\d)|\b(?:and|but)\b", re.IGNORECASE)
_WORD = re.compile(r"[a-z][a-z-]{3,}", re.IGNORECASE)
_COMMON = frozenset((
    "start", "give", "take", "dose", "with", "daily", "night", "every", "hours", "times", "twice",
    "three", "four", "morning", "evening", "bedtime", "mouth", "orally", "needed", "before",
))  # fmt: skip
"""Words of orders that occur in prompts and references, but do not name a drug."""


@dataclass(frozen=True)
class Orders:
    """The orders in a text: doses by drug, drugs that are not given, and drugs to ask about."""

    doses: Counter[tuple[frozenset[str], Decimal, str]]
    """Number of orders of each dose of a drug; a repeated order counts again."""
    stopped: frozenset[str]
    asked: frozenset[str]


def read_orders(text: str, drugs: frozenset[str]) -> Orders:
    """Read the orders about these drugs.

    A part of a sentence that names no drug continues the last one. A part that only names a drug
    continues the order before it ("hold warfarin and digoxin"). At the start of a sentence, it
    belongs to the order after it ("warfarin and digoxin are withheld").
    """
    doses, stopped, asked = Counter[tuple[frozenset[str], Decimal, str]](), set[str](), set[str]()
    drug = frozenset[str]()
    for sentence in _SENTENCE.split(text):
        order, waiting = set[str](), frozenset[str]()
        for number, part in enumerate(_PART.split(sentence)):
            words = {word.casefold() for word in _WORD.findall(part)}
            drug = drugs & words or drug
            found = read_doses(part)
            doses.update((drug, *dose) for dose in found)
            if _is_question(part, has_dose=bool(found)):
                order = asked
            elif _STOP.search(_NOT_STOPPED.sub("", part)):
                order = stopped
            elif found or not words - {"both"} <= drugs:
                order = set()
            elif number == 0:
                waiting = drug
                continue
            order |= drug | waiting
            waiting = frozenset()
    return Orders(doses, frozenset(stopped), frozenset(asked))


def _is_question(part: str, *, has_dose: bool) -> bool:
    """Return True if a part of a sentence asks for a dose, or states that it is not known."""
    if _ASK.search(part):
        return True
    lacks_dose = not has_dose and _DOSE_NAME.search(part) and _LACK.search(part)
    return bool(lacks_dose) and not _NOT_GIVEN.search(part)


def read_doses(text: str) -> set[tuple[Decimal, str]]:
    """Return the doses in a text as amounts with their basic units."""
    found = set()
    for first, last, unit, per in _DOSE.findall(_IN_WORDS.sub(_write_digits, text)):
        factor, basic = UNITS[unit.casefold()]
        found |= {
            (read_number(n) * factor, f"{basic}/{per.casefold()}") for n in (first, last) if n
        }
    # One tablet of 25 mg is 25 mg; several tablets are another dose.
    single = {(Decimal(1), "tablet/"), (Decimal(1), "capsule/")}
    return found - single if len(found - single) == 1 else found


def _write_digits(words: re.Match[str]) -> str:
    tens, ones = ((words[name] or "").casefold() for name in ("tens", "ones"))
    value = (10 * (_TENS.index(tens) + 2) if tens else 0) + (_ONES.index(ones) + 1 if ones else 0)
    return str(value) if value else words.group()


def list_drugs(prompt: str, reference: str) -> frozenset[str]:
    """Return the words that a prompt and its reference share, such as the names of drugs."""
    in_prompt, in_reference = (
        {word.casefold() for word in _WORD.findall(text)} for text in (prompt, reference)
    )
    orders = {word for word in in_reference if _STOP.match(word) or _ASK.match(word)}
    units = {word for word in in_reference if word.removesuffix("s") in UNITS}
    return frozenset((in_prompt & in_reference) - _COMMON - orders - units)


class MedicationOptions(AnswerOptions):
    """Options of ``[[evaluators]] use = "medication"``."""


def judge(
    _options: MedicationOptions, prompt: str, answer: str, reference: str
) -> tuple[bool, bool, bool]:
    """Return whether the doses, the negations and the open questions agree."""
    drugs = list_drugs(prompt, reference)
    given, right = read_orders(answer, drugs), read_orders(reference, drugs)
    return given.doses == right.doses, given.stopped == right.stopped, given.asked == right.asked


SAMPLE_RECORDS = tuple(
    Completion(source=f"sample:{number}", prompt=prompt, completion=order)
    for number, (prompt, order) in enumerate(
        (
            ("Aspirin, a hundred milligrams a day.", "START aspirin 100 mg daily"),
            ("No more warfarin for now.", "HOLD warfarin"),
            ("Give some insulin tonight.", "ASK dose of insulin"),
        ),
        1,
    )
)
"""Records for the conformance kit, whose own answers have no orders."""

MEDICATION = replace(
    offer_parts_evaluator(
        name="medication",
        summary="doses, negations and open questions of medication orders",
        config=MedicationOptions,
        metrics=("orders-safe", "doses-preserved", "negations-preserved", "questions-preserved"),
        judge=judge,
    ),
    sample_records=SAMPLE_RECORDS,
)
