"""Add to the verdict which share of requests needs no person, if the run measured it."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.events import JSON, TUNED, Measured
from tunesmith_evidence.number_text import format_share
from tunesmith_evidence.review.policy import AUTOMATED, DETAIL


def find_review(measured: Sequence[Measured], baseline: str) -> JSON:
    """Return the automated shares of the tuned model and of a baseline, by model."""
    return {
        event.model: {
            "precision": event.details[DETAIL]["precision"],
            "automated": event.value,
            "low": event.low,
            "high": event.high,
        }
        for event in reversed(measured)
        if event.metric == AUTOMATED and event.model in (TUNED, baseline)
    }


def describe_review(found: JSON) -> str:
    """Describe the automated shares as a clause."""
    shares = (
        f"{format_share(found[name]['automated'])} ({'tuned model' if name == TUNED else name})"
        for name in sorted(found, key=lambda name: name != TUNED)
    )
    target = format_share(next(iter(found.values()))["precision"])
    return f"requests that need no person, at {target} precision: {', '.join(shares)}"
