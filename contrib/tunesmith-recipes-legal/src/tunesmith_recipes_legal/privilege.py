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
        r"(?:attorney|solicitor|lawyer)[\s/–-]+client\b|client[\s/–-]+(?:attorney|lawyer) privilege"
        r"|(?:legal(?: professional| advice)?|litigation|common[ -]interest|joint[ -]defen[cs]e)"
        r" privileged?\b|legally privileged\b"
        r"|privileged(?:\W{1,3}|\s+and\s+)confidential\b|confidential(?:\W{1,3}|\s+and\s+)privileged\b",
        re.IGNORECASE,
    ),
    "a mark of attorney work product": re.compile(
        # Contracts also call the results of a contractor "work product".
        r"(?:attorney|lawyer)(?:[’']?s[’']?)? work[\s-]product"
        r"|work[\s-]product (?:doctrine|privilege|protection)"
        r"|prepared (?:in (?:anticipation|contemplation) of|for) (?:litigation\b|legal proceedings)"
        r"|prepared (?:at the (?:request|direction) of|by) (?:legal |outside )?counsel\b",
        re.IGNORECASE,
    ),
    "a mark of settlement talks": re.compile(
        # "Without prejudice to other rights" is a phrase of contracts.
        r"without prejudice\b(?!\s+to\b)|\b(?:rule(?: of evidence)?|FRE) 408\b"
        r"|(?:confidential|for) settlement (?:communication|discussion|negotiation|offer|purpose)s?"
        r"|\b(?:settlement|mediation) privilege\b",
        re.IGNORECASE,
    ),
}
"""Marks of documents that must not be disclosed, by what they protect."""


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of mark in the rows."""
    return find_marks([*train, *validation, *test], MARKS, where="privilege", hint=HINT)
