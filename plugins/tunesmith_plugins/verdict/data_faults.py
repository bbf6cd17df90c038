"""Faults of the data that make a verdict worthless."""

from __future__ import annotations

from tunesmith.plan import Evidence
from tunesmith.text import format_count
from tunesmith_evidence.formats import format_share
from tunesmith_plugins.verdict.label_noise import WHERE

MOST_TOUCHED = 0.02
"""Share of the held-out rows that errors of data reviews may touch."""


def describe_data_faults(
    evidence: Evidence, max_label_noise: float, best_share: float | None
) -> list[str]:
    """Return a text for each fault that a run must be judged by, the worst first.

    ``best_share`` is the largest share of held-out labels that a model got right, if known: that
    share of labels cannot be noise, whatever a classifier of words believes.
    """
    texts = []
    heldout = evidence.data.heldout if evidence.data else 0
    errors = [n for n in evidence.notices if n.level == "error" and n.heldout_rows]
    touched = {row for notice in errors for row in notice.heldout_rows}
    if touched and heldout and len(touched) > MOST_TOUCHED * heldout:
        causes = "; ".join(dict.fromkeys(notice.message for notice in errors))
        texts.append(
            f"{len(touched):,} of {format_count(heldout, 'held-out row')} "
            f"({format_share(len(touched) / heldout)}) prove nothing: {causes}"
        )
    rows = evidence.data.train if evidence.data else 0
    noise = next((n for n in evidence.notices if n.source == WHERE), None)
    if noise is not None and rows:
        share = noise.count / rows
        if best_share is not None:
            share = min(share, 1 - best_share)
        if share > max_label_noise:
            texts.append(noise.message)
    return texts
