"""Check ``code licenses``: rows with code under a license that training may not respect.

A model can repeat code from its training rows, without the license that the code came with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record, exchanges

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
MAX_EXAMPLES = 2


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of mark in the rows."""
    rows = [(record.source, _read(record)) for part in (train, validation, test) for record in part]
    for what, pattern in MARKS.items():
        sources = [source for source, text in rows if pattern.search(text)]
        if sources:
            yield Finding(
                level="warning",
                where="code licenses",
                message=f"{len(sources):,} of {len(rows):,} rows contain {what}",
                hint="remove code that you may not reuse: a model can repeat it",
                count=len(sources),
                examples=tuple(sources[:MAX_EXAMPLES]),
            )


def _read(record: Record) -> str:
    """Return the text of a record's prompts and answers."""
    try:
        pairs = [*exchanges(record)]
    except (TypeError, ValueError):
        return ""  # a kind of record that another plugin defines
    texts = []
    for prompt, answer in pairs:
        texts += [prompt] if isinstance(prompt, str) else [m.shown_text for m in prompt]
        texts.append(answer.shown_text)
    return "\n".join(texts)
