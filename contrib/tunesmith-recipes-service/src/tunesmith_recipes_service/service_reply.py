"""The ``service-reply`` evaluator: do replies follow policy, escalation rule and brand?

A reply may be in other words than the reference. What counts is what the customer is offered: the
same actions and amounts, a person where the reference involves one, and the brand's own terms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Self

from pydantic import Field

from tunesmith.contracts import Measurement, TextModel
from tunesmith.offers import EvaluatorOffer
from tunesmith.records import Chat, Completion, Record
from tunesmith_evidence.answers.generate import (
    AnswerOptions,
    generate_answers,
    read_references,
    resolve_max_new_tokens,
)
from tunesmith_evidence.answers.normalize import strip_reasoning
from tunesmith_evidence.answers.parts import list_part_metrics, measure_parts

METRICS = list_part_metrics("reply-acceptable", "policy-kept", "escalation-right", "brand-kept")
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w])")


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


@dataclass(frozen=True)
class ServiceReply:
    """Measures whether replies do what their references do."""

    options: ServiceReplyOptions

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        limit = resolve_max_new_tokens(self.options.max_new_tokens, references)
        return replace(self, options=self.options.model_copy(update={"max_new_tokens": limit}))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare what it offers with the reference."""
        references = read_references(records, "service-reply")
        answers = generate_answers(model, records, self.options.max_new_tokens)
        pairs = zip(map(strip_reasoning, answers), references, strict=True)
        rows = [self.agree(answer, reference) for answer, reference in pairs]
        return measure_parts(METRICS, rows, answers)

    def agree(self, answer: str, reference: str) -> tuple[bool, bool, bool]:
        """Return whether policy, escalation and brand agree."""
        policy = self._offers(answer) == self._offers(reference)
        escalates = [_contains_any(text, self.options.escalation) for text in (answer, reference)]
        return policy, escalates[0] == escalates[1], self._keeps_brand(answer, reference)

    def _offers(self, text: str) -> tuple[frozenset[str], frozenset[Decimal]]:
        """Return the actions and the numbers of a reply; 5.00 and 5 are the same number."""
        actions = self.options.actions.items()
        offered = frozenset(name for name, words in actions if _contains_any(text, words))
        numbers = (match.replace(",", ".") for match in _NUMBER.findall(text))
        return offered, frozenset(Decimal(n) for n in numbers if n.count(".") <= 1)

    def _keeps_brand(self, answer: str, reference: str) -> bool:
        """Return True if brand names are exact, the reference's are there, and no phrase banned."""
        for name in self.options.brand:
            found = re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", answer, re.IGNORECASE)
            if any(each != name for each in found) or (name in reference and not found):
                return False
        return bool(answer.strip()) and not _contains_any(answer, self.options.banned)


def _contains_any(text: str, phrases: Sequence[str]) -> bool:
    """Return True if one of the phrases begins a word of the text, in any case."""
    return any(re.search(rf"(?<!\w){re.escape(p)}", text, re.IGNORECASE) for p in phrases)


SERVICE_REPLY = EvaluatorOffer(
    name="service-reply",
    summary="policy, escalation and brand of replies to customers",
    config=ServiceReplyOptions,
    build=ServiceReply,
    metrics=METRICS,
    accepts=frozenset({Completion, Chat}),
    generates=True,
)
