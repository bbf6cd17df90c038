"""The ``privilege`` check: rows that are marked as privileged or as settlement talks.

Training on such documents can waive the privilege, and a tuned model can reveal what they say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.marks import find_marks

HINT = "remove these documents, or ask the lawyer in charge before training on them"
MARKS = {
    "a mark of attorney-client privilege": re.compile(
        r"(?:attorney|solicitor|lawyer)[\s/–-]+client\b|legal(?:ly)? privileged?"
        r"|privileged ?(?:and|&|/) ?confidential|confidential ?(?:and|&|/) ?privileged",
        re.IGNORECASE,
    ),
    "a mark of attorney work product": re.compile(
        # Contracts also call the results of a contractor "work product".
        r"(?:attorney|lawyer)(?:[’']?s[’']?)? work[\s-]product"
        r"|work[\s-]product (?:doctrine|privilege|protection)"
        r"|prepared (?:in anticipation of|for) litigation",
        re.IGNORECASE,
    ),
    "a mark of settlement talks": re.compile(
        # "Without prejudice to other rights" is a phrase of contracts.
        r"without prejudice\b(?!\s+to\b)|rule 408"
        r"|(?:confidential|for) settlement (?:communication|discussion|negotiation|purpose)s?",
        re.IGNORECASE,
    ),
}
"""Marks of documents that must not be disclosed, by what they protect."""


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of mark in the rows."""
    return find_marks([*train, *validation, *test], MARKS, where="privilege", hint=HINT)
