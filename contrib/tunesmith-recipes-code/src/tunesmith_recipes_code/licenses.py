"""The ``code licenses`` check: rows with code under a license that training may not respect.

A model can repeat code from its training rows, without the license that the code came with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.marks import find_marks

HINT = "remove code that you may not reuse: a model can repeat it"
MARKS = {
    "a copyleft license": re.compile(
        r"\b[AL]?GPL(?:,? ?v(?:ersion )?|[ -]|)[23]\b|\bGNU [AL]?GPL\b|\b(?:[EM]P|EUP|CDD|SSP)L-\d"
        r"|(?:GNU (?:\w+ )?General|Mozilla|Eclipse|Server Side) Public License",
        re.IGNORECASE,
    ),
    "a proprietary notice": re.compile(
        r"all rights reserved|proprietary and confidential|unauthorized copying", re.IGNORECASE
    ),
    "a copyright notice": re.compile(
        # A name, in capitals, may precede the year.
        r"(?i:copyright|©|\(c\))[ :]*(?:(?:\([cC]\)|©)\s*)?(?:[A-Z][\w.,&-]*\s+){0,5}(?:19|20)\d\d"
    ),
}
"""Marks of licensed code, by what they say."""


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of mark in the rows."""
    return find_marks([*train, *validation, *test], MARKS, where="code licenses", hint=HINT)
