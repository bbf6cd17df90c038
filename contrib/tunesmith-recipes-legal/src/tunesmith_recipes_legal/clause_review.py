"""The ``clause-review`` evaluator: do the cited clauses exist, and are they the right ones?

Lawyers cannot accept an invented citation, so a separate metric counts them. The
wording of a review does not matter: its clause numbers and risks do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from tunesmith_evidence.answers.generate import AnswerOptions
from tunesmith_evidence.answers.parts import offer_parts_evaluator

_CLAUSE = re.compile(
    r"(?<![\w.$€£])\d+(?:\.\d+)+(?!\w|\s?(?:[%$€£]|percent|per cent|EUR|USD|GBP))", re.IGNORECASE
)
_STATEMENT = re.compile(r"[;\n]|\.\s")
_IN_ORDER = re.compile(
    r"\b(?:fine|ok(?:ay)?|acceptable|in order|no (?:risk|issue|change|departure)s?)\b",
    re.IGNORECASE,
)
"""Matches what a statement says about a clause that need not be changed."""


class ClauseReviewOptions(AnswerOptions):
    """Options of ``[[evaluators]] use = "clause-review"``."""

    risks: list[str] = Field(
        ["high", "medium", "low"],
        min_length=1,
        description="Words for the risk of a clause, in any case.",
    )


def judge(
    options: ClauseReviewOptions, prompt: str, answer: str, reference: str
) -> tuple[bool, bool, bool]:
    """Return whether all citations exist, are the reference's, and have its risks."""
    if not answer.strip():
        return False, False, False
    exist = {*_CLAUSE.findall(answer)} <= {*_CLAUSE.findall(prompt)}
    cited, right = (read_risks(text, options.risks) for text in (answer, reference))
    return exist, cited.keys() == right.keys(), cited == right


def read_risks(review: str, risks: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the risks that are stated about each cited clause, in the same statement.

    If a statement has as many risks as clauses, they belong together in their order. A risk alone
    belongs to the clauses alone before it ("Clause 7.1. Risk: high."), otherwise to those after it
    ("High risk: - 7.1 - 7.2").
    """
    found: dict[str, frozenset[str]] = {}
    heading: list[str] = []
    open_clauses: list[str] = []
    names = "|".join(map(re.escape, sorted(risks, key=len, reverse=True)))
    for statement in _STATEMENT.split(review):
        clauses = _CLAUSE.findall(statement)
        stated = re.findall(rf"(?<!\w)(?:{names})(?!\w)", statement, re.IGNORECASE)
        if not stated and _IN_ORDER.search(statement):
            continue
        if stated and not clauses:
            clauses, open_clauses = open_clauses, []
            heading = [] if clauses else stated
        elif stated:
            heading, open_clauses = [], []
        elif clauses:
            stated, open_clauses = heading, [] if heading else [*open_clauses, *clauses]
        each = [stated] * len(clauses)
        if len(clauses) == len(stated):  # "high 7.1, medium 7.2"
            each = [[risk] for risk in stated]
        for clause, own in zip(clauses, each, strict=True):
            found[clause] = found.get(clause, frozenset()) | {*map(str.casefold, own)}
    return found


CLAUSE_REVIEW = offer_parts_evaluator(
    name="clause-review",
    summary="cited clauses of contract reviews: do they exist, and are they right?",
    config=ClauseReviewOptions,
    metrics=("review-sound", "citations-exist", "citations-right", "risks-right"),
    judge=judge,
)
