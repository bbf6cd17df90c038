"""The ``presidio`` check: rows with personal data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.marks import read_text
from tunesmith_presidio.analyze import KINDS, find_spans

HINT = "replace it by placeholders before training: a model can repeat its rows"
MAX_EXAMPLES = 2


def review(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a warning for each kind of personal data in the rows, without quoting them."""
    sources: dict[str, list[str]] = defaultdict(list)
    records = [*train, *validation, *test]
    for record in records:
        for placeholder in {span.placeholder for span in find_spans(read_text(record))}:
            sources[placeholder].append(record.source)
    for placeholder, what in KINDS.items():
        if found := sources[placeholder]:
            verb = "contains" if len(found) == 1 else "contain"
            yield Finding(
                level="warning",
                where="presidio",
                message=f"{len(found):,} of {len(records):,} rows {verb} {what}",
                hint=HINT,
                count=len(found),
                examples=tuple(found[:MAX_EXAMPLES]),
            )
