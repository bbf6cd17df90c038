"""Review both parts of the data for leaks."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.near_duplicates import DEFAULT_THRESHOLD, Match
from tunesmith_plugins.checks.leaks.find_leaks import find_leaks

MOST_EXAMPLES = 3


def review(train: Sequence[Record], heldout: Sequence[Record]) -> list[Finding]:
    """Return a warning if there are leaks, with their number and the first of them."""
    leaks = find_leaks(train, heldout)
    if not leaks:
        return []
    identical = sum(leak.train.identical for leak in leaks)
    message = (
        f"{len(leaks):,} of {len(heldout):,} held-out rows are duplicates or near duplicates of a "
        f"training row: {identical:,} have the same letters and digits, "
        f"{len(leaks) - identical:,} are similar ({DEFAULT_THRESHOLD})"
    )
    return [
        Finding(
            level="warning",
            where="data leaks",
            message=message,
            count=len(leaks),
            examples=tuple(
                f"{heldout[leak.heldout].source} (held out) and "
                f"{train[leak.train.known].source} (training), {_describe(leak.train)}"
                for leak in leaks[:MOST_EXAMPLES]
            ),
            hint="remove them from one part: the scores of rows that were trained are too good",
        )
    ]


def _describe(match: Match) -> str:
    if match.identical:
        return "identical"
    return f"5-grams {match.characters:.2f}, words {match.words:.2f}"
