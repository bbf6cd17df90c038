"""The ``medication`` evaluator: are doses, units, negations and open questions preserved?

An answer need not have the words of the reference. What counts is what a patient would get: the
drugs with their doses, the drugs that are withheld, and a question about a dose that is missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, TypeAlias

from tunesmith.records import Completion
from tunesmith_evidence.answers.generate import AnswerOptions
from tunesmith_evidence.answers.numbers import NUMBER, NUMERAL, read_number, read_numeral
from tunesmith_evidence.answers.parts import offer_parts_evaluator

UNITS: dict[str, tuple[int | Fraction, str]] = {
    **dict.fromkeys(("ng", "nanogram"), (Fraction(1, 1_000), "mcg")),
    **dict.fromkeys(("mcg", "ug", "μg", "microgram"), (1, "mcg")),
    **dict.fromkeys(("mg", "milligram"), (1_000, "mcg")),
    **dict.fromkeys(("g", "gram"), (1_000_000, "mcg")),
    **dict.fromkeys(("unit", "international unit", "iu", "u"), (1, "unit")),
    **dict.fromkeys(("ml", "milliliter", "millilitre"), (1, "ml")),
    **dict.fromkeys(("l", "liter", "litre"), (1_000, "ml")),
    **dict.fromkeys(("mmol", "millimole"), (1, "mmol")),
    **dict.fromkeys(("meq", "milliequivalent"), (1, "meq")),
    **dict.fromkeys(("%", "percent", "per cent"), (1, "%")),
    **dict.fromkeys(("puff", "inhalation"), (1, "puff")),
    **dict.fromkeys(("tablet", "tab"), (1, "tablet")),
    **dict.fromkeys(("capsule", "cap"), (1, "capsule")),
    "drop": (1, "drop"),
}
"""The factor to a basic unit, and that unit: 0.5 g and 500 mg are the same dose."""
RATES = {
    **dict.fromkeys(("kg", "kilogram"), (1, "kg")),
    **dict.fromkeys(("m2", "m²"), (1, "m2")),
    **dict.fromkeys(("ml", "milliliter", "millilitre"), (1, "ml")),
    **dict.fromkeys(("h", "hr", "hour"), (1, "h")),
    **dict.fromkeys(("min", "minute"), (60, "h")),
}
"""Factor and name of what a dose can be per. Not per day: frequencies are not compared."""
SINGLE = frozenset({(Fraction(1), "tablet"), (Fraction(1), "capsule")})


def _join(words: Iterable[str]) -> str:
    return rf"(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})"


_UNIT = rf"{_join(UNITS)}s?(?![a-zμ])"
_AMOUNT = rf"{NUMBER}[\s-]*{_UNIT}"
_FORM = r"(?:tab(?:let)?|cap(?:sule)?)s?\b"
_RATE = re.compile(
    rf"(?:/|\bper\b)\s*({NUMBER}(?=\s?m))?\s*({_join(RATES)})s?(?!\w)", re.IGNORECASE
)
_DOSE = re.compile(
    r"(?P<limit>\b(?:at most|up to|max(?:imum|\.)?|(?:no|not) more than) (?:of )?)?"
    r"(?<![\d.,/<>≤≥])(?<![<>≤≥]\s)"
    # A count multiplies the dose: "2 x 25 mg", "2 tablets of 25 mg", "25 mg x 2 tablets".
    rf"(?:(?P<count>{NUMBER})\s*(?:[x×*]|{_FORM})\s*(?:of\s+|at\s+)?(?:@\s*)?(?=\d))?"
    # A range is not the dose that the number before the unit gives.
    rf"(?:(?P<low>{NUMBER})\s*(?:[-–]|to|or)\s*)?"
    rf"(?P<high>{NUMBER})[\s-]*(?P<unit>{_join(UNITS)})s?(?![a-zμ])"
    rf"(?P<rates>(?:\s*(?:/|\bper\b)\s*(?:{NUMBER}\s?(?=m))?{_join(RATES)}s?(?!\w))*)"
    rf"(?:\s*{_FORM})?(?:\s*[x×*]\s*(?P<times>{NUMBER})(?=\s*{_FORM}))?",
    re.IGNORECASE,
)
_FORMER = re.compile(
    rf"\bfrom\s+{_AMOUNT}\s+(?=to\b)|\btotal\b[^,;.\d]{{0,40}}{_AMOUNT}", re.IGNORECASE
)
"""Matches a dose that is changed, and a sum of doses."""
_BETWEEN = re.compile(rf"\bbetween\s+({NUMBER}(?:[\s-]*{_UNIT})?)\s+and\b", re.IGNORECASE)
_HALF = re.compile(r"\bhalf an?\b|(?<!\d)½", re.IGNORECASE)
_IN_WORDS = re.compile(
    rf"{NUMERAL}(?=[\s-]+{_UNIT}|\s*(?:-|to|or)\s*(?:\d|{NUMERAL})|(?P<of_tablets>\s+{_AMOUNT}\s*{_FORM}))",
    re.IGNORECASE,
)
"""Matches a number in words before a unit, a range, or the strength of tablets."""

_NOT = r"(?:not|never|cannot|\w+n['’]t)"
_VERB = (
    r"(?:(?:hold|holding) off\b"
    r"|(?:h[oe]ld(?!(?:ing)? off)|stop|paus|discontinu|withh[oe]ld|omit|cancel|suspend|skip)\w*"
    r"|(?:ceas|avoid|interrupt|terminat|withdr[ae]w|halt)\w*"
    r"|(?:refrain|postpon|defer|delay|lift|remov|contraindicat)\w*"
    r"|(?:forb[iaoe]d|prohibit)\w*|finished\b"
    r"|(?:allergic|wait|off|end(?:s|ed)?|d/?c(?:['’]?e?d)?)\b|(?:leave|left) out\b)"
)
_DENIED = re.compile(
    rf"\b(?:{_NOT}|no|none|neither|nothing|without)"
    r"(?:\s+(?!(?:until|if|when|because|since|as|after|before|while)\b)[a-z'’]+){0,4}?"
    rf"\s+{_VERB}(?:\s+n?or\s+{_VERB})*"
    rf"|\b{_VERB}(?:\s+(?:the|this|on|of|from|being))*\s+{_VERB}",
    re.IGNORECASE,
)
"""Matches words that deny or end a stop: "not withheld", "no reason to hold", "lift the hold"."""
_CONDITIONAL = re.compile(
    rf"\b{_VERB}\s+(?:@\s+|\w+\s+)?(?:(?:if|when)\b|(?:after|in)\s+\d)", re.IGNORECASE
)
_FORGET = re.compile(rf"\b{_NOT} (?:forget|fail|hesitate) to\b", re.IGNORECASE)
_STOP = re.compile(
    rf"\b(?:{_VERB}|none\b|neither\b|nil\b|(?:give|take) no\b"
    rf"|{_NOT}\s+(?:(?:to|be)\s+)*(?:giv|tak|administ|start|beg[iu]n|receiv|us|continu|order|prescri"
    r"|need|allow|permit)\w*\b(?!\s+with\b)"
    r"|(?:no|not|never)\b"
    r"(?=\W*$|\s+(?:until|today|tonight|now|for now|longer|more(?! (?:than|often)))\b))",
    re.IGNORECASE,
)
_STOP_NAMED = re.compile(
    rf"\b{_NOT}\b|\bno(?!\s+(?:chang|adjust))(?:\s+\w+){{0,3}}\s+@", re.IGNORECASE
)
"""Matches a negation that stops a drug if both are in the same part of a sentence."""
_INSTEAD = re.compile(r"\b(?:instead of|rather than|except(?: for)?|apart from)\b", re.IGNORECASE)
_BUT_NOT = re.compile(r"\W*(?:not|nor)\s+(?:the\s+)?@\W*", re.IGNORECASE)
"""Matches a part of a sentence that reverses the order before it, for one drug."""
_ASK = (
    r"(?:ask|clarify|confirm|unclear|unknown|missing|query|specify|unspecified|tb[cd]"
    r"|to be determined)\b"
)
_QUESTION = re.compile(rf"\?|\b{_ASK}", re.IGNORECASE)
_NO_QUESTION = re.compile(
    r"\b(?:(?:do|does|must|should|need) not|(?:do|does|need)n['’]t|no (?:need|reason)|never)"
    rf"(?:\s+[a-z'’]+){{0,2}}?\s+{_ASK}",
    re.IGNORECASE,
)
_DOSE_NAME = re.compile(r"\b(?:dose|dosage|strength|amount)\b|__", re.IGNORECASE)
_LACK = re.compile(
    rf"\b(?:{_NOT}|no|without|lack\w*|absent|needs?|needed|required|to (?:be|follow)|pending|which"
    r"|what|please|verify|request|check(?: \w+){0,2} (?:dose|dosage|strength|amount))\b|__",
    re.IGNORECASE,
)
"""Matches what is said about a dose that is not stated."""
_NOT_GIVEN = re.compile(
    rf"\b(?:(?!\w+sn['’]t){_NOT} (?:give|take|administer)|(?:give|take) no)\b", re.IGNORECASE
)
_SENTENCE = re.compile(
    rf"[;\n!]|\s/\s(?!{_join(RATES)}\b)|(?<=\?)|\.(?!\d)|(?<!\w)\d\)\s", re.IGNORECASE
)
_HEADING = re.compile(r":\W*\Z")
_PART = re.compile(r"\||,(?!\d)|\b(?:and|but)\b", re.IGNORECASE)
_WORD = re.compile(r"[a-z][a-z-]{3,}", re.IGNORECASE)
_COMMON = frozenset((
    "start", "give", "take", "dose", "with", "daily", "night", "every", "hours", "times", "twice",
    "three", "four", "morning", "evening", "bedtime", "mouth", "orally", "needed", "before",
    "international", "cent", "hour", "minute", "each", "meal", "infusion", "injection", "patch",
    "cream", "inhaler",
))  # fmt: skip
"""Words of orders that occur in prompts and references, but do not name a drug."""
_FILLERS = frozenset(("both", "also", "until", "today", "tonight", "tomorrow", "dose"))
"""Words that give no other order to the drug that they accompany."""
Order: TypeAlias = Literal["given", "stopped", "asked"]


@dataclass(frozen=True)
class Orders:
    """The orders in a text: doses by drug, drugs that are not given, and drugs to ask about."""

    doses: Counter[tuple[frozenset[str], Fraction, str]]
    """Number of orders of each dose of a drug; a repeated order counts again."""
    stopped: frozenset[str]
    asked: frozenset[str]


def read_orders(text: str, drugs: frozenset[str]) -> Orders:
    """Read the orders about these drugs.

    A part of a sentence that names no drug continues the last one. A part that only names a drug
    continues the order before it ("hold warfarin and digoxin"), which can be a heading. At the
    start of a sentence, it belongs to the order after it ("warfarin and digoxin are withheld").
    """
    names = re.compile(rf"\b{_join(drugs)}\b" if drugs else r"(?!)", re.IGNORECASE)
    doses = Counter[tuple[frozenset[str], Fraction, str]]()
    drugs_by_order: dict[Order, set[str]] = {"given": set(), "stopped": set(), "asked": set()}
    drug, heading = frozenset[str](), None
    stated = set[tuple[Fraction, str]]()
    for sentence in _SENTENCE.split(_rewrite_doses(text)):
        order, waiting = heading, frozenset[str]()
        if _HEADING.search(sentence) and not names.search(sentence):
            heading = _read_order(sentence, None, has_dose=False, is_other=True)
            continue
        for part in _PART.split(sentence):
            words = {word.casefold() for word in _WORD.findall(part)}
            named, masked = drugs & words, names.sub("@", part)
            found = read_doses(masked)
            if named:
                drug, stated = named, set()
            elif {
                word.removesuffix("s") for word in words - _COMMON
            } <= UNITS.keys():  # "in the morning and 25 mg in the evening"
                found -= stated | (SINGLE if stated else set())
            stated |= found
            doses.update((drug, *dose) for dose in found)
            is_other = not words - (_FILLERS if order else {"both"}) <= drugs
            order = _read_order(masked, order, has_dose=bool(found), is_other=is_other)
            waiting |= drug
            if order:
                drugs_by_order[order] |= waiting
                waiting = frozenset()
    stopped, asked = (frozenset(drugs_by_order[order]) for order in ("stopped", "asked"))
    return Orders(doses, stopped, asked)


def _rewrite_doses(text: str) -> str:
    """Return a text with digits in place of numerals, and without doses that are not ordered."""
    text = re.sub(r"\bI\.\s?U\.?", "IU", _HALF.sub("0.5", text), flags=re.IGNORECASE)
    text = _BETWEEN.sub(r"\1 to", _IN_WORDS.sub(_write_digits, text))
    return _INSTEAD.sub("but not", _FORMER.sub("", text))


def _write_digits(words: re.Match[str]) -> str:
    return f"{read_numeral(words.group())}{' x' if words['of_tablets'] else ''}"


def _read_order(part: str, before: Order | None, *, has_dose: bool, is_other: bool) -> Order | None:
    """Return what a part of a sentence orders; in it, ``@`` stands for drugs.

    Args:
        part: the part.
        before: the order of the part before it.
        has_dose: True if the part states a dose.
        is_other: True if the part has words that can order something else than before.
    """
    if _is_question(_NO_QUESTION.sub("", part), has_dose=has_dose):
        return "asked"
    if before and _BUT_NOT.fullmatch(part):
        return "given" if before == "stopped" else "stopped"
    part = _CONDITIONAL.sub("", _DENIED.sub("", _FORGET.sub("", part)))
    if _STOP.search(part) or ("@" in part and _STOP_NAMED.search(part)):
        return "stopped"
    return "given" if has_dose or is_other else before


def _is_question(part: str, *, has_dose: bool) -> bool:
    """Return True if a part of a sentence asks for a dose, or states that it is not known."""
    if _QUESTION.search(part):
        return True
    lacks_dose = not has_dose and _DOSE_NAME.search(part) and _LACK.search(part)
    return bool(lacks_dose) and not _NOT_GIVEN.search(part)


def read_doses(text: str) -> set[tuple[Fraction, str]]:
    """Return the doses in a text as amounts with their basic units."""
    found = set()
    for match in _DOSE.finditer(text):
        size, unit = UNITS[match["unit"].casefold()]
        factor = Fraction(size)
        for number, name in _RATE.findall(match["rates"]):
            count, per = RATES[name.casefold()]
            factor *= count / _read(number or "1")
            unit += f"/{per}"
        factor *= _read(match["count"] or "1") * _read(match["times"] or "1")
        if match["limit"]:
            unit = f"at most {unit}"
        found |= {(_read(n) * factor, unit) for n in (match["low"], match["high"]) if n}
    # One tablet of 25 mg is 25 mg; several tablets are another dose.
    return found - SINGLE if len(found - SINGLE) == 1 else found


def _read(number: str) -> Fraction:
    return Fraction(read_number(number))


def list_drugs(prompt: str, reference: str) -> frozenset[str]:
    """Return the words that a prompt and its reference share, such as the names of drugs."""
    in_prompt, in_reference = (
        {word.casefold() for word in _WORD.findall(text)} for text in (prompt, reference)
    )
    orders = {word for word in in_reference if _STOP.match(word) or _QUESTION.match(word)}
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
