"""The ``service-reply`` evaluator: do replies follow policy, escalation rule and brand?

A reply need not have the words of the reference. What counts is what the customer is offered: the
same actions and amounts, a person where the reference involves one, and the brand's own terms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import permutations

from pydantic import Field

from tunesmith.records import Completion
from tunesmith_evidence.answers.generate import AnswerOptions
from tunesmith_evidence.answers.normalize import normalize_unicode
from tunesmith_evidence.answers.numbers import NUMBER, NUMERAL, read_number, read_numeral
from tunesmith_evidence.answers.parts import offer_parts_evaluator

_UNITS = {
    **dict.fromkeys(("minute", "min"), (1, "minutes")),
    **dict.fromkeys(("hour", "hr", "h"), (60, "minutes")),
    "day": (24 * 60, "minutes"),
    "week": (7 * 24 * 60, "minutes"),
    "month": (1, "months"),
    "year": (12, "months"),
    **dict.fromkeys(("eur", "euro", "€"), (1, "EUR")),
    **dict.fromkeys(("usd", "dollar", "$"), (1, "USD")),
    **dict.fromkeys(("gbp", "pound", "£"), (1, "GBP")),
    **dict.fromkeys(("%", "percent", "per cent"), (1, "%")),
}
"""The factor to a basic unit, and that unit: 48 hours are 2 days."""
_CURRENCIES = frozenset(("EUR", "USD", "GBP"))
_SIGN = r"(?:EUR|USD|GBP|€|\$|£)"
_NAME = rf"(?:{'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})"
_UNIT = rf"[\s-]*(?:(?:working|business|calendar)\s)?(?P<unit>{_NAME})s?(?!\w)"
_NUMBER = re.compile(
    rf"(?:\b(?=[EUG])|(?=[€$£]))(?P<sign>{_SIGN})\s?(?P<money>{NUMBER})(?![\d/]|k\b)"
    rf"|(?<![\w.,/])(?P<number>{NUMBER})(?![\d/]|k\b)(?:{_UNIT})?",
    re.IGNORECASE,
)
_IN_WORDS = re.compile(
    rf"{NUMERAL}(?={_UNIT.replace('?P<unit>', '?:')}|\s*(?P<digits>\(\d))", re.IGNORECASE
)
"""Matches a number in words before a unit, or before the same number in digits."""
_LABEL = re.compile(
    r"#\s?\d+|\b(?:no|nr)\.\s?\d+|\b(?:number|order|ticket|case)\s+\d+\b", re.IGNORECASE
)
"""Matches a number that identifies an order."""
_LIST_MARK = re.compile(r"^[ \t]*\d{1,2}[.)]\s", re.MULTILINE)
_CLAUSE = re.compile(
    r"[.,;:!?()\n–—]|\b(?:and|but|because|although|though|if|when|so|while|until|unless)\b",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"\b(?:that|which|who|what|I|you|we|it|they)\b", re.IGNORECASE)
_REFUSE = r"(?:refus|declin|reject|deny|deni|unable|impossible)\w*"
_HESITATE = re.compile(
    rf"\b(?:not|never|\w+n['’]t)\s+(?:\w+\s+)?(?:{_REFUSE}|(?:hesitat|fail|forget)\w*)",
    re.IGNORECASE,
)
"""Matches a denial of a denial."""
_NEGATION = re.compile(
    rf"\b(?:not(?! only)|never|cannot|\w+n['’]t|nobody|no one|{_REFUSE})\b", re.IGNORECASE
)
_INSTEAD = re.compile(
    rf"\b(?:instead of|rather than)\b(?:(?!{_SUBJECT.pattern}).)*|\bnon-\w+", re.IGNORECASE
)
"""Matches what a clause does not offer without a negation."""
_NONE = r"\b(?:no|nothing|none|without)\s+(?:need\s+(?:for|of|to)\s+)?(?:\w+\s+){0,2}?"
"""Matches a negation of the word after it, with at most two words between them."""
_HUMP = re.compile(r"\s+|(?<=[a-z])(?=[A-Z])")
"""Matches where a name can be divided: at spaces, and before a capital letter in a word."""


class ServiceReplyOptions(AnswerOptions):
    """Options of ``[[evaluators]] use = "service-reply"``."""

    actions: dict[str, list[str]] = Field(
        {},
        description=(
            "What a reply can offer, each with the words that offer it: "
            '`{ refund = ["refund", "money back"] }`.'
        ),
    )
    escalation: list[str] = Field(
        ["supervisor", "colleague", "specialist"],
        description="Words that hand a customer to a person.",
    )
    brand: list[str] = Field(
        [], description="Names that must be written exactly like this wherever they occur."
    )
    banned: list[str] = Field([], description="Phrases that no reply may contain.")


def judge(
    options: ServiceReplyOptions, _prompt: str, answer: str, reference: str
) -> tuple[bool, bool, bool]:
    """Return whether policy, escalation and brand agree."""
    answer, reference = (normalize_unicode(_LIST_MARK.sub("", t)) for t in (answer, reference))
    offered, right = (_list_actions(text, options) for text in (answer, reference))
    escalates = [_offers_any(text, options.escalation) for text in (answer, reference)]
    amounts = _read_amounts(answer), _read_amounts(reference)
    keeps_policy = offered == right and _agree(*amounts)
    return keeps_policy, escalates[0] == escalates[1], _keeps_brand(answer, reference, options)


def _list_actions(text: str, options: ServiceReplyOptions) -> set[str]:
    return {name for name, words in options.actions.items() if _offers_any(text, words)}


def _read_amounts(text: str) -> set[tuple[Decimal, str]]:
    """Return the numbers of a reply with their basic units."""
    digits = _IN_WORDS.sub(
        lambda words: "" if words["digits"] else str(read_numeral(words.group())), text
    )
    found = set()
    for match in _NUMBER.finditer(_LABEL.sub("", re.sub(r"\((\d+)\)", r"\1", digits))):
        name = match["sign"] or match["unit"] or ""
        factor, unit = _UNITS.get(name.casefold(), (1, ""))
        found.add((read_number(match["money"] or match["number"]) * factor, unit))
    return found


def _agree(given: set[tuple[Decimal, str]], right: set[tuple[Decimal, str]]) -> bool:
    """Return True if the amounts are the same; one side can leave out the currency."""
    bare = {number for number, unit in given | right if not unit}
    given, right = (
        {(n, "" if n in bare and unit in _CURRENCIES else unit) for n, unit in amounts}
        for amounts in (given, right)
    )
    return given == right


def _offers_any(text: str, phrases: Sequence[str]) -> bool:
    """Return True if a phrase is in a clause of the text that does not deny it."""
    if not phrases:
        return False
    words = "|".join(map(_make_pattern, phrases))
    offered = re.compile(words, re.IGNORECASE)
    none_offered = re.compile(f"{_NONE}(?:{words})", re.IGNORECASE)
    clauses = (none_offered.sub("", _remove_denied(clause)) for clause in _CLAUSE.split(text))
    return any(offered.search(clause) for clause in clauses)


def _remove_denied(clause: str) -> str:
    """Return a clause without the part that a negation denies.

    What precedes "not" is denied too ("a refund is not possible"), but not in the clause around it
    ("we exchange the lamp you did not order").
    """
    clause = _INSTEAD.sub("", _HESITATE.sub("", clause))
    negation = _NEGATION.search(clause)
    if negation is None:
        return clause
    subjects = [subject.end() for subject in _SUBJECT.finditer(clause, 0, negation.start())]
    return clause[: subjects[-1] if subjects else 0]


def _make_pattern(phrase: str) -> str:
    """Return a pattern for the words of a phrase, in any order and with any ending.

    At most three other words are between them, and short words can be others: "send it back" is
    also "send the lamp back".
    """
    words = [word for word in phrase.split() if len(word) > 2] or phrase.split()
    stems = [
        rf"(?<!\w){re.escape(word[:-1])}(?:e|ing)\w*"
        if word[-1] == "e"
        else rf"(?<!\w){re.escape(word)}\w*"
        for word in words
    ]
    return "|".join(r"\W+(?:\w+\W+){0,3}?".join(order) for order in permutations(stems))


def _keeps_brand(answer: str, reference: str, options: ServiceReplyOptions) -> bool:
    """Return True if brand names are exact, the reference's are there, and no phrase is banned."""
    for name in options.brand:
        # Also in one word, with a hyphen or in the plural, but not in addresses.
        words = r"[\s_-]*".join(map(re.escape, _HUMP.split(name)))
        found = re.findall(rf"(?<![\w@./]){words}s?(?![\w@]|\.\w)", answer, re.IGNORECASE)
        if any(each != name for each in found) or (name in reference and not found):
            return False
    return bool(answer) and not _contains_any(answer, options.banned)


def _contains_any(text: str, phrases: Sequence[str]) -> bool:
    """Return True if one of the phrases begins a word of the text, in any case."""
    return any(re.search(rf"(?<!\w){re.escape(p)}", text, re.IGNORECASE) for p in phrases)


SAMPLE_RECORDS = (
    Completion(
        source="sample:1",
        prompt="The lamp arrived broken.",
        completion="We refund 40 EUR within 5 days. Hygge Home",
    ),
    Completion(
        source="sample:2",
        prompt="The lamp hurt my child.",
        completion="A supervisor calls you today. Hygge Home",
    ),
)
"""Records for the conformance kit, in whose own answers nobody is offered anything."""

SERVICE_REPLY = replace(
    offer_parts_evaluator(
        name="service-reply",
        summary="policy, escalation and brand of replies to customers",
        config=ServiceReplyOptions,
        metrics=("reply-acceptable", "policy-kept", "escalation-right", "brand-kept"),
        judge=judge,
    ),
    sample={"actions": {"refund": ["refund"]}, "brand": ["Hygge Home"]},
    sample_records=SAMPLE_RECORDS,
)
