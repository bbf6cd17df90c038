"""The ``patient data`` check: rows that can identify a patient.

The built-in checks find phone numbers, dates of birth and record numbers. This check adds patterns
that occur in clinical notes: names with a title, ages over 89 and dates of a stay. HIPAA's Safe
Harbor method (45 CFR 164.514(b)(2)) lists all three among the identifiers to remove.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.marks import find_marks

HINT = "replace it by a placeholder before training: a model can repeat its rows"
_NO_NAME = "Information|History|Care|Safety|Education|Data|Record|Status|Is|Has|Denies|Reports"
_STAY = "admitted|discharged|died|deceased|admission|discharge|death"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DATE = rf"\b(?:\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}}|\d{{1,2}}\.? {_MONTH}|{_MONTH} \d{{1,2}})\b"
PATTERNS = {
    "a patient's name": re.compile(
        r"\b(?:(?:Mr|Mrs|Ms|Miss|Mx)\.? |[Pp]atient(?:'s)? name: ?"
        rf"|(?:Pt\.?|Patient:?) (?!{_NO_NAME}))"
        r"(?:[A-Z]\. ?)?[^\W\d_a-z][\w’'-]+"
    ),
    "an age over 89": re.compile(
        r"\b(?:9\d|1[01]\d)[- ]?(?:year[- ]old|years? (?:old|of age)|y/?o\b|yrs?\b)"
        r"|\bage[d:]*\s+(?:9\d|1[01]\d)\b(?! ?(?:days|weeks|months))",
        re.IGNORECASE,
    ),
    "a date of admission, discharge or death": re.compile(
        rf"\b(?:{_STAY})\b[^.\n]{{0,20}}?{_DATE}|{_DATE}[^.\n]{{0,20}}?\b(?:{_STAY})\b",
        re.IGNORECASE,
    ),
}
"""Identifiers by description."""


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of mark in the rows."""
    return find_marks([*train, *validation, *test], PATTERNS, where="patient data", hint=HINT)
