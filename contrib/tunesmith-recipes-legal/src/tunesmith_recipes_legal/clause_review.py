"""The ``clause-review`` evaluator: do the cited clauses exist, and are they the right ones?

Lawyers cannot accept an invented citation, so a separate metric counts them. The
wording of a review does not matter: its clause numbers and risks do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field

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

METRICS = list_part_metrics("review-sound", "citations-exist", "citations-right", "risks-right")
_CLAUSE = re.compile(r"(?<![\w.])\d+(?:\.\d+)+(?!\w)")
_STATEMENT = re.compile(r"[;\n]|\.\s")


class ClauseReviewOptions(AnswerOptions):
    """Options of ``[[evaluators]] use = "clause-review"``."""

    risks: list[str] = Field(
        ["high", "medium", "low"], description="Words for the risk of a clause, in any case."
    )


@dataclass(frozen=True)
class ClauseReview:
    """Measures whether reviews cite the clauses that their references cite."""

    options: ClauseReviewOptions

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        limit = resolve_max_new_tokens(self.options.max_new_tokens, references)
        return replace(self, options=self.options.model_copy(update={"max_new_tokens": limit}))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate a review for each record, and compare its citations with the reference's."""
        references = read_references(records, "clause-review")
        answers = generate_answers(model, records, self.options.max_new_tokens)
        prompts = [prompt_text(last_exchange(record)[0]) for record in records]
        triples = zip(prompts, map(strip_reasoning, answers), references, strict=True)
        rows = [self.judge(*triple) for triple in triples]
        return measure_parts(METRICS, rows, answers)

    def judge(self, prompt: str, answer: str, reference: str) -> tuple[bool, bool, bool]:
        """Return whether all citations exist, are the reference's, and have its risks."""
        known = {*_CLAUSE.findall(prompt)}
        cited, right = self.read_risks(answer), self.read_risks(reference)
        if not answer.strip():
            return False, False, False
        return cited.keys() <= known, cited.keys() == right.keys(), cited == right

    def read_risks(self, review: str) -> dict[str, frozenset[str]]:
        """Return the risks that are stated about each cited clause, in the same statement."""
        found: dict[str, frozenset[str]] = {}
        for statement in _STATEMENT.split(review):
            words = {word.casefold() for word in re.findall(r"[a-z]+", statement, re.IGNORECASE)}
            risks = frozenset(words & {risk.casefold() for risk in self.options.risks})
            for clause in _CLAUSE.findall(statement):
                found[clause] = found.get(clause, frozenset()) | risks
        return found


CLAUSE_REVIEW = EvaluatorOffer(
    name="clause-review",
    summary="cited clauses of contract reviews: do they exist, and are they right?",
    config=ClauseReviewOptions,
    build=ClauseReview,
    metrics=METRICS,
    accepts=frozenset({Completion, Chat}),
    generates=True,
)
