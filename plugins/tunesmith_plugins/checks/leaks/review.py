"""Review both parts of the data for leaks."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record, content_key
from tunesmith_plugins.checks.leaks.find_leaks import find_leaks


def review(train: Sequence[Record], heldout: Sequence[Record]) -> list[Finding]:
    """Return a warning if there are leaks, with their number and the first of them."""
    leaks = find_leaks([*map(content_key, train)], [*map(content_key, heldout)])
    if not leaks:
        return []
    first = leaks[0]
    message = (
        f"{len(leaks)} of {len(heldout)} held-out rows are duplicates or near duplicates of a "
        "training row, so the scores will be too good; the first: "
        f"{heldout[first.heldout_index].source} (held out) and "
        f"{train[first.train_index].source} (training)"
    )
    return [Finding(level="warning", where="data", message=message)]
