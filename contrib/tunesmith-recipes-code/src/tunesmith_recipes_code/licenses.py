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
        r"\b[AL]?GPL(?:,? ?v(?:ersion )?|[ -]|)[23]\b|\bGNU [AL]?GPL\b"
        r"|\blicen[cs]ed?(?: under)?(?: the)?:? (?:the )?[AL]?GPL\b|under the terms of the GNU\b"
        r"|\b(?:[EM]P|EUP|CDD|SSP|OS)L(?:-\d| v?\d\.\d)|\bCC[- ]BY(?:-NC)?-SA\b|\bShare-?Alike\b"
        r"|(?:GNU (?:\w+ )?General|Mozilla|Eclipse|Server Side) Public License",
        re.IGNORECASE,
    ),
    "a proprietary notice": re.compile(
        r"all rights reserved|unauthori[sz]ed copying"
        r"|proprietary ?(?:and|&|/) ?confidential|confidential ?(?:and|&|/) ?proprietary",
        re.IGNORECASE,
    ),
    "a copyright notice": re.compile(
        # A name, in capitals, may precede the year.
        r"(?i:copyright|\bcopr\.|©|(?<![\w)\]=])\(c\))[ :]*(?:(?:\([cC]\)|©)\s*)?(?:by\s+)?"
        r"(?:[A-Z][\w.,&-]*\s+){0,5}(?:19|20)\d\d|(?i:copyright) *(?:\([cC]\)|©) *[A-Z]"
    ),
    "a license that restricts use": re.compile(
        r"\bBusiness Source License\b|\bBUSL-\d|\bCommons Clause\b|\bCC[- ]BY-N[CD]\b"
        r"|\bNon-?Commercial(?:-\w+)? (?:\d|\w+ )?Licen[cs]e\b",
        re.IGNORECASE,
    ),
}
"""Marks of licensed code, by what they say."""


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of mark in the rows."""
    return find_marks([*train, *validation, *test], MARKS, where="code licenses", hint=HINT)
