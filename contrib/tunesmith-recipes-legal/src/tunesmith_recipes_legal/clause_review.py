"""The ``clause-review`` evaluator: do the cited clauses exist, and are they the right ones?

Lawyers cannot accept an invented citation, so a separate metric counts them. The
wording of a review does not matter: its clause numbers and risks do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby, zip_longest
from operator import itemgetter

from pydantic import Field

from tunesmith_evidence.answers.generate import AnswerOptions
from tunesmith_evidence.answers.parts import offer_parts_evaluator

_CLAUSE = re.compile(
    r"(?<![\w.$€£])\d+(?:\.\d+)+(?!\w|\s?(?:[%$€£]|percent|per cent|EUR|USD|GBP))", re.IGNORECASE
)
_KIND = itemgetter(1)
_STATEMENT = re.compile(r"[;\n]|\.\s")
_NOT = r"(?:no|not|nothing|none|neither|never|without|\w+n['’]t)"
_APPROVAL = re.compile(
    r"\b(?:fine|ok(?:ay)?|in (?:order|line)|(?:accept|compl[yi]|conform|follow|meet|match)\w*)\b",
    re.IGNORECASE,
)
_OBJECTION = re.compile(
    r"\b(?:risk|issue|chang|depart|deviat|concern|object|problem|comment|say|add|flag)\w*\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(rf"\b{_NOT}\b", re.IGNORECASE)


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

    A statement that begins with clauses continues with their risk, and one that begins with a risk
    continues with its clauses; both can be repeated. As many risks as clauses belong together in
    their order. A risk alone belongs to the clauses alone before it ("Clause 7.1. Risk: high."),
    otherwise to those after it ("High risk: - 7.1 - 7.2").
    """
    found: dict[str, frozenset[str]] = {}
    heading: list[str] = []
    open_clauses: list[str] = []
    names = "|".join(map(re.escape, sorted(risks, key=len, reverse=True)))
    risk = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE)
    denied = re.compile(rf"\b{_NOT}\s+(?:an?\s+)?(?:{names})(?!\w)", re.IGNORECASE)
    for statement in _STATEMENT.split(review):
        statement = denied.sub("", statement)
        clauses, stated = _CLAUSE.findall(statement), risk.findall(statement)
        if not stated and _is_approved(statement):
            continue
        pairs = [(clauses, stated)]
        if stated and not clauses:
            pairs, heading = [(open_clauses, stated)], [] if open_clauses else stated
            open_clauses = []
        elif stated:
            pairs, heading, open_clauses = _pair(statement, risk), [], []
        elif clauses:
            pairs, open_clauses = [(clauses, heading)], [] if heading else [*open_clauses, *clauses]
        for group, own in pairs:
            each = [[one] for one in own] if len(own) == len(group) else [own] * len(group)
            for clause, names_of in zip(group, each, strict=True):
                found[clause] = found.get(clause, frozenset()) | {*map(str.casefold, names_of)}
    return found


def _is_approved(statement: str) -> bool:
    """Return True if a statement approves a clause, or denies that there is an objection to it."""
    is_negated = bool(_NEGATION.search(statement))
    return bool((_OBJECTION if is_negated else _APPROVAL).search(statement))


def _pair(statement: str, risk: re.Pattern[str]) -> list[tuple[list[str], list[str]]]:
    """Return the groups of clauses in a statement, each with its risks."""
    marks = [(m.start(), 0, m.group()) for m in _CLAUSE.finditer(statement)]
    marks += [(m.start(), 1, m.group()) for m in risk.finditer(statement)]
    runs = [(kind, [text for *_, text in run]) for kind, run in groupby(sorted(marks), _KIND)]
    pairs: list[tuple[list[str], list[str]]] = []
    for first, second in zip_longest(runs[::2], runs[1::2]):
        if second is None:  # "7.1 is of high risk, as is 7.2"
            clauses, risks = pairs.pop()
            more = first[1]
            pairs.append(([*clauses, *more], risks) if first[0] == 0 else (clauses, risks + more))
        else:
            pairs.append((first[1], second[1]) if first[0] == 0 else (second[1], first[1]))
    return pairs


CLAUSE_REVIEW = offer_parts_evaluator(
    name="clause-review",
    summary="cited clauses of contract reviews: do they exist, and are they right?",
    config=ClauseReviewOptions,
    metrics=("review-sound", "citations-exist", "citations-right", "risks-right"),
    judge=judge,
)
