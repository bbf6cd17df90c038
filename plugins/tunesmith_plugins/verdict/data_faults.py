"""Faults of the data that make a verdict worthless."""

from __future__ import annotations

from tunesmith.plan import Evidence
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.verdict.label_noise import WHERE

MOST_TOUCHED = 0.02
"""Share of the test rows that errors of data reviews may touch."""


def describe_data_faults(
    evidence: Evidence, max_label_noise: float, best_share: float | None
) -> list[str]:
    """Return a text for each fault that a run must be judged by, the worst first.

    ``best_share`` is the largest share of test labels that a model got right, if known: that
    share of labels cannot be noise, whatever a classifier of words believes.
    """
    texts = []
    test = evidence.data.test if evidence.data else 0
    errors = [n for n in evidence.findings if n.level == "error" and n.test_rows]
    touched = {row for finding in errors for row in finding.test_rows}
    if touched and test and len(touched) > MOST_TOUCHED * test:
        causes = "; ".join(dict.fromkeys(finding.message for finding in errors))
        texts.append(
            f"{len(touched):,} of {format_count(test, 'test row')} "
            f"({format_share(len(touched) / test)}) show nothing: {causes}"
        )
    rows = evidence.data.train if evidence.data else 0
    noise = next((n for n in evidence.findings if n.source == WHERE), None)
    if noise is not None and rows:
        share = noise.count / rows
        if best_share is not None:
            share = min(share, 1 - best_share)
        if share > max_label_noise:
            texts.append(noise.message)
    return texts
