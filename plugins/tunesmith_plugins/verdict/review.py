"""Add the share of requests that need no person to the verdict, if the run measured it."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.events import JSON, TUNED, Measured
from tunesmith_evidence.number_text import format_confidence, format_number, format_share
from tunesmith_evidence.review.policy import AUTOMATED, DETAIL, RIGHT


def find_review(measured: Sequence[Measured], baseline: str) -> JSON:
    """Return the metrics of the first ``review`` evaluator, for the tuned model and a baseline."""
    found: JSON = {}
    for first in [event for event in measured if event.metric == AUTOMATED][:1]:
        required = first.details[DETAIL]["precision"]
        for event in measured:
            if event.evaluator == first.evaluator and event.model in (TUNED, baseline):
                share = {"value": event.value, "low": event.low, "high": event.high}
                found.setdefault(event.model, {"required": required})[event.metric] = share
    return found


def describe_review(found: JSON) -> str:
    """Return the shares of automated requests, and of right answers among them, as a clause."""
    parts = []
    for name in sorted(found, key=lambda name: name != TUNED):
        note = "tuned model" if name == TUNED else name
        if RIGHT in found[name]:
            note += f", {format_number(found[name][RIGHT]['value'])} of them right"
        parts.append(f"{format_share(found[name][AUTOMATED]['value'])} ({note})")
    target = format_confidence(next(iter(found.values()))["required"])
    return f"requests that need no person, required precision {target}: {', '.join(parts)}"
