"""Check ``privilege``: rows that are marked as privileged or as settlement talks.

Training on such documents can waive the privilege, and a tuned model can reveal what they say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record, exchanges

MARKS = {
    "attorney-client privilege": re.compile(
        r"attorney[\s-]+client|solicitor[\s-]+client|legal(?:ly)? privileged?|"
        r"privileged (?:and|&) confidential",
        re.IGNORECASE,
    ),
    "attorney work product": re.compile(
        r"(?:attorney )?work[\s-]product|prepared (?:in anticipation of|for) litigation",
        re.IGNORECASE,
    ),
    "settlement talks": re.compile(
        r"without prejudice|settlement (?:discussion|negotiation)s?|rule 408", re.IGNORECASE
    ),
}
"""Marks of documents that must not be disclosed, by what they protect."""
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
                where="privilege",
                message=f"{len(sources):,} of {len(rows):,} rows are marked with {what}",
                hint="remove these documents, or ask the lawyer in charge before training on them",
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
