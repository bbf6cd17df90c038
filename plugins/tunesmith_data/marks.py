"""Find rows whose text has a mark, such as an identifier of a person or a confidentiality note."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record, exchanges

__all__ = ["find_marks", "read_text"]

MAX_EXAMPLES = 2


def find_marks(
    records: Sequence[Record], marks: Mapping[str, re.Pattern[str]], *, where: str, hint: str
) -> Iterator[Finding]:
    """Yield a warning for each mark that rows contain; it states where, and does not quote rows.

    Args:
        records: the rows; records of kinds that a plugin defines are skipped.
        marks: patterns by what they find, such as "a patient's name".
        where: name of the check.
        hint: what to do about such rows.
    """
    texts = [(record.source, read_text(record)) for record in records]
    for what, pattern in marks.items():
        sources = [source for source, text in texts if pattern.search(text)]
        if sources:
            verb = "contains" if len(sources) == 1 else "contain"
            yield Finding(
                level="warning",
                where=where,
                message=f"{len(sources):,} of {len(texts):,} rows {verb} {what}",
                hint=hint,
                count=len(sources),
                examples=tuple(sources[:MAX_EXAMPLES]),
            )


def read_text(record: Record) -> str:
    """Return the prompts and answers of a record, empty for a kind that a plugin defines."""
    try:
        pairs = [*exchanges(record)]
    except (TypeError, ValueError):
        return ""
    texts = []
    for prompt, answer in pairs:
        texts += [prompt] if isinstance(prompt, str) else [m.shown_text for m in prompt]
        texts.append(answer.shown_text)
    return "\n".join(texts)
