"""Review both parts of the data for leaks."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.near_duplicates import DEFAULT_THRESHOLD, Match
from tunesmith_plugins.checks.leaks.find_leaks import find_leaks


def review(train: Sequence[Record], heldout: Sequence[Record]) -> list[Finding]:
    """Return a warning if there are leaks, with their number and the first of them."""
    leaks = find_leaks(train, heldout)
    if not leaks:
        return []
    identical = sum(leak.train.identical for leak in leaks)
    first = leaks[0]
    message = (
        f"{len(leaks):,} of {len(heldout):,} held-out rows are duplicates or near duplicates of a "
        f"training row, so the scores will be too good: {identical:,} have the same letters and "
        f"digits, {len(leaks) - identical:,} are similar ({DEFAULT_THRESHOLD}); the first: "
        f"{heldout[first.heldout].source} (held out) and {train[first.train.known].source} "
        f"(training), {_describe(first.train)}"
    )
    return [Finding(level="warning", where="data", message=message)]


def _describe(match: Match) -> str:
    if match.identical:
        return "identical"
    return f"5-grams {match.characters:.2f}, words {match.words:.2f}"
