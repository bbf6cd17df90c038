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
        r"GNU (?:Affero |Lesser )?General Public License|SPDX-License-Identifier:\s*A?L?GPL|"
        r"\b[AL]?GPL-?v?[23](?:\.0)?\b|Mozilla Public License|Server Side Public License"
    ),
    "a proprietary notice": re.compile(
        r"all rights reserved|proprietary and confidential|unauthorized copying", re.IGNORECASE
    ),
    "a copyright notice": re.compile(
        r"(?:copyright|©)\s*(?:\(c\)\s*)?(?:19|20)\d\d", re.IGNORECASE
    ),
}
"""Marks of licensed code, by what they say."""


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of mark in the rows."""
    return find_marks([*train, *validation, *test], MARKS, where="code licenses", hint=HINT)
