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
        r"attorney[\s-]+client|solicitor[\s-]+client|legal(?:ly)? privileged?|"
        r"privileged (?:and|&) confidential",
        re.IGNORECASE,
    ),
    "a mark of attorney work product": re.compile(
        r"(?:attorney )?work[\s-]product|prepared (?:in anticipation of|for) litigation",
        re.IGNORECASE,
    ),
    "a mark of settlement talks": re.compile(
        r"without prejudice|settlement (?:discussion|negotiation)s?|rule 408", re.IGNORECASE
    ),
}
"""Marks of documents that must not be disclosed, by what they protect."""


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of mark in the rows."""
    return find_marks([*train, *validation, *test], MARKS, where="privilege", hint=HINT)
