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

_LABEL = r"\((?:[a-z]|aa|bb|cc|dd|[ivxl]{1,6}|\d{1,2})\)"
_LABELS = rf"(?:\s?{_LABEL})"
_NO_QUANTITY = (
    r"(?!\w|\s?(?:[%$€£]|percent|per cent|EUR|USD|GBP|[mb]illion"
    r"|(?:working |business )?(?:hour|day|week|month|year)s?\b))"
)
_DOTTED = rf"\d+(?:\.\d+){{1,9}}{_LABELS}{{0,9}}{_NO_QUANTITY}"
_WHOLE = rf"\d+(?-i:[A-Z]?){_LABELS}{{0,9}}{_NO_QUANTITY}"
_CITATION = re.compile(
    r"\b(?P<annex>schedule|annex|appendix|exhibit|attachment)\s+"
    r"(?P<letter>\d+(?:\.\d+)*|(?-i:[IVX]+|[A-Z]))\b"
    r"|(?:§+|\b(?:clause|section|article|paragraph)s?|\b(?:cl|sec|art|para)s?\b\.?)\s*"
    rf"(?P<list>(?:{_DOTTED}|{_WHOLE})(?:\s*(?:,|&|\band\b|\bor\b)+\s*(?:{_DOTTED}|{_WHOLE}))*)"
    rf"|(?<![\w.$€£])(?<!EUR )(?<!USD )(?<!GBP )(?P<number>{_DOTTED}|\d+{_LABELS}{{1,9}}(?!\w))",
    re.IGNORECASE,
)
"""Matches 7.1, 12(a)(i), § 12, clauses 3 and 4, and Schedule 2."""
_IN_LIST = re.compile(rf"{_DOTTED}|{_WHOLE}", re.IGNORECASE)
_CLAUSE = re.compile(r"⟨(.*?)⟩")
"""Matches a citation that :func:`mark_citations` has marked."""
_HEADING = re.compile(r"(?:^|(?<=[.;:]\s))(\d+)[.)]?\s+(?=[A-Z])", re.MULTILINE)
_IN_TEXT = re.compile(_LABEL, re.IGNORECASE)
_KIND = itemgetter(1)
_STATEMENT = re.compile(r"[;\n]|\.\s")
_NOT = r"(?:no|not|nothing|none|neither|never|without|cannot|\w+n['’]t)"
_APPROVAL = re.compile(
    r"\b(?:fine|ok(?:ay)?|in (?:order|line)|(?:accept|compl[yi]|conform|follow|meet|match)\w*)\b",
    re.IGNORECASE,
)
_OBJECTION = re.compile(
    r"\b(?:risk|issue|chang|depart|deviat|concern|object|problem|comment|say|add|flag)\w*\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(rf"\b{_NOT}\b", re.IGNORECASE)
_NOTHING = re.compile(r"\b(?:none|nil|n/a)\W*\Z", re.IGNORECASE)


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
    answer, reference = mark_citations(answer), mark_citations(reference)
    exist = list_clauses(prompt) | {*_CLAUSE.findall(reference)}
    cited, right = (read_risks(text, options.risks) for text in (answer, reference))
    return (
        {*_CLAUSE.findall(answer)} <= exist,
        cited.keys() == right.keys(),
        cited == right,
    )


def mark_citations(text: str) -> str:
    """Return a text whose citations are in angle brackets, without words such as "clause"."""

    def mark(match: re.Match[str]) -> str:
        if match["annex"]:
            return f"⟨{match['annex']} {match['letter']}⟩".casefold()
        found = match["list"] or match["number"]
        return _IN_LIST.sub(lambda each: f"⟨{''.join(each.group().split())}⟩".casefold(), found)

    return _CITATION.sub(mark, re.sub("[⟨⟩]", "", text))


def list_clauses(contract: str) -> set[str]:
    """Return the clauses of a contract, with those above them and the labels in their texts.

    In "12.3 The supplier (a) pays (i) fees", these are 12.3, 12.3(a), 12.3(i) and 12.3(a)(i).
    """
    found = {*_HEADING.findall(contract)}
    _before, *parts = _CLAUSE.split(mark_citations(contract))
    for clause, text in zip(parts[::2], parts[1::2], strict=True):
        labels = [label.casefold() for label in _IN_TEXT.findall(text)]
        found |= {clause, *(clause + label for label in labels)}
        found |= {f"{clause}{a}{b}" for n, a in enumerate(labels) for b in labels[n + 1 :]}
        while (clause := re.sub(r"(?:\.\d+|\([^()]*\))\Z", "", above := clause)) != above:
            found.add(clause)
    return found


def read_risks(review: str, risks: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the risks that are stated about each marked citation, in the same statement.

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
    denied = re.compile(
        rf"\b(?:{_NOT}|far from|hardly)\s+(?:an?\s+)?(?:{names})(?!\w)", re.IGNORECASE
    )
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
    if _NOTHING.search(statement):
        return True
    is_negated = bool(_NEGATION.search(statement))
    return bool((_OBJECTION if is_negated else _APPROVAL).search(statement))


def _pair(statement: str, risk: re.Pattern[str]) -> list[tuple[list[str], list[str]]]:
    """Return the groups of clauses in a statement, each with its risks."""
    marks = [(m.start(), 0, m[1]) for m in _CLAUSE.finditer(statement)]
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
