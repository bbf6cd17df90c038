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
from tunesmith_evidence.answers.numbers import NUMBER, read_number
from tunesmith_evidence.answers.parts import offer_parts_evaluator

_UNIT = r"[\s-]*(?:(?:working|business|calendar)\s)?(hour|day|week|month|year)"
_NUMBER = re.compile(
    rf"(?:\b(?:EUR|USD|GBP)|(?<![\w.,/]))({NUMBER})(?![\d/])(?:{_UNIT})?", re.IGNORECASE
)
_WORDS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen",
]  # fmt: skip
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})(?={_UNIT})", re.IGNORECASE)
"""Matches a number in words before a unit of time."""
_CLAUSE = re.compile(
    r"[.,;:!?()\n–—]|\b(?:and|but|because|although|though|if|when|so|while|until|unless)\b",
    re.IGNORECASE,
)
_SUBJECT = r"\b(?:that|which|who|what|I|you|we|it|they)\b"
_DENIED = re.compile(
    # What precedes "not" is denied too ("a refund is not possible"), but not in the clause around
    # it ("we exchange the lamp you did not order").
    rf"(?:(?!{_SUBJECT}).)*\b(?:not(?! only)|never|cannot|\w+n['’]t)\b.*"
    rf"|\b(?:instead of|rather than)\b(?:(?!{_SUBJECT}).)*",
    re.IGNORECASE,
)
"""Matches the part of a clause that a negation denies."""
_NONE = r"\b(?:no|nothing|none|without)\s+(?:\w+\s+){0,2}?"
"""Matches a negation of the word after it, with at most two words between them."""


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
    answer, reference = normalize_unicode(answer), normalize_unicode(reference)
    offered, right = (_read_offers(text, options) for text in (answer, reference))
    escalates = [_offers_any(text, options.escalation) for text in (answer, reference)]
    return offered == right, escalates[0] == escalates[1], _keeps_brand(answer, reference, options)


def _read_offers(
    text: str, options: ServiceReplyOptions
) -> tuple[set[str], set[tuple[Decimal, str]]]:
    """Return the actions of a reply, and its numbers with their unit if it is one of time."""
    actions = {name for name, words in options.actions.items() if _offers_any(text, words)}
    digits = _WORD.sub(lambda match: str(_WORDS.index(match[1].casefold()) + 1), text)
    return actions, {(read_number(n), unit.casefold()) for n, unit in _NUMBER.findall(digits)}


def _offers_any(text: str, phrases: Sequence[str]) -> bool:
    """Return True if a phrase is in a clause of the text that does not deny it."""
    offered = "|".join(map(_make_pattern, phrases))
    return any(
        re.search(
            offered,
            re.sub(f"{_NONE}(?:{offered})", "", _DENIED.sub("", clause), flags=re.IGNORECASE),
            re.IGNORECASE,
        )
        for clause in _CLAUSE.split(text)
        if offered
    )


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
        found = re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", answer, re.IGNORECASE)
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
