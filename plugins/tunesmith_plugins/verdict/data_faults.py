"""Find faults in the data that would make any verdict meaningless."""

from __future__ import annotations

from tunesmith.plan import Evidence
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.verdict.label_noise import WHERE

MAX_TOUCHED_SHARE = 0.02
"""Maximum share of test rows that may have errors in the data review."""


def describe_data_faults(
    evidence: Evidence, max_label_noise: float, best_share: float | None
) -> list[str]:
    """Return the faults of the data to fix before a verdict, as text, the worst first.

    Args:
        evidence: the data and findings of the run.
        max_label_noise: maximum acceptable share of wrong labels.
        best_share: share of test rows that the best model answers correctly, if known. A label that
            a model predicts cannot be noise, so the estimated noise is capped at ``1 -
            best_share``.
    """
    texts = []
    test = evidence.data.test if evidence.data else 0
    errors = [n for n in evidence.findings if n.level == "error" and n.test_rows]
    touched = {row for finding in errors for row in finding.test_rows}
    if touched and test and len(touched) > MAX_TOUCHED_SHARE * test:
        causes = "; ".join(dict.fromkeys(finding.message for finding in errors))
        rows = f"{len(touched):,} of {format_count(test, 'test row')}"
        share = f"{rows} ({format_share(len(touched) / test)}) are unreliable: "
        texts.append(causes if causes.startswith(rows) else share + causes)
    train = evidence.data.train if evidence.data else 0
    noise = next((n for n in evidence.findings if n.source == WHERE), None)
    if noise is not None and train:
        wrong = noise.count / train
        if best_share is not None:
            wrong = min(wrong, 1 - best_share)
        if wrong > max_label_noise:
            texts.append(noise.message)
    return texts
