"""Add to the verdict which share of requests needs no person, if the run measured it."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.events import JSON, TUNED, Measured
from tunesmith_evidence.number_text import format_share
from tunesmith_evidence.review.policy import RIGHT, read_policy


def find_review(measured: Sequence[Measured], baseline: str) -> JSON:
    """Return the automated share of the tuned model and of a baseline, by model."""
    found: JSON = {}
    for event in measured:
        policy = read_policy(event)
        if policy is None or event.model not in (TUNED, baseline) or event.model in found:
            continue
        key = (event.model, event.evaluator, RIGHT)
        right = next((e for e in measured if (e.model, e.evaluator, e.metric) == key), None)
        found[event.model] = {
            "precision": policy.precision,
            "automated": _to_json(event),
            "right": _to_json(right) if right else None,
        }
    return found


def describe_review(found: JSON) -> str:
    """Describe the automated shares as a clause; empty if there are none."""
    if not found:
        return ""
    target = format_share(next(iter(found.values()))["precision"])
    shares = ", ".join(
        f"{format_share(one['automated']['value'])} ({'tuned model' if name == TUNED else name})"
        for name, one in found.items()
    )
    if not any(one["automated"]["value"] for one in found.values()):
        return f"for a precision of {target}, every request needs a person"
    return f"for a precision of {target}, these shares of requests need no person: {shares}"


def _to_json(event: Measured) -> JSON:
    return {"value": event.value, "low": event.low, "high": event.high}
