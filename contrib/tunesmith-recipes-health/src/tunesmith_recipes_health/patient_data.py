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
_NO_NAME = (
    "Information|History|Care|Safety|Education|Data|Record|Status|Portal|Outcome|Is|Was|Has|Denies"
    "|Report|Present|State|Stable|Female|Male"
)
_NO_NAME_IN_CAPITALS = "IMAG|ANGIO|SPECTRO|SCAN|ENTERO|CHOLANGIO|UROGRA|BRAIN|SPINE"
"""Beginnings of words after MR (magnetic resonance)."""
_TITLE = (
    r"(?:(?:Mr|Mrs|Ms|Miss|Mx|Mme|Madame|Monsieur|Herr|Frau|Sra?)\.?"
    rf"|MRS\.?|MR\.?(?! (?:{_NO_NAME_IN_CAPITALS}))) "
)
_STAY = "admitted|discharged|died|deceased|admission|discharge|death|DOD"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = rf"\b(?:\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}}|{_DAY}\.? (?:of )?{_MONTH}|{_MONTH} {_DAY})\b"
_OVER_89 = r"(?:9\d|1[01]\d|ninety(?:-\w+)?)"
PATTERNS = {
    "a patient's name": re.compile(
        rf"\b(?:{_TITLE}|[Pp]atient(?:['’]s)? name(?: is|:) ?"
        rf"|(?:Pt[.:]?|Patient:?) (?!{_NO_NAME}))"
        r"(?:[A-Z]\. ?)?(?:(?:van|von|de|der|den|del|la|le|di|da|al|el|bin) )*"
        r"[^\W\d_a-z][\w’'-]+"
    ),
    "an age over 89": re.compile(
        rf"\b{_OVER_89}[- ]?(?:(?:years?|yrs?)[- ](?:old|of age)|y[./]? ?o\b|yrs?\b(?! of))"
        rf"|\bage[d:]*\s+{_OVER_89}\b(?! ?(?:minutes|hours|days|weeks|months))",
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
