"""Write the run file for measuring a model that was fine-tuned with another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.errors import UsageError
from tunesmith_evidence.endpoint.address import check_endpoint, is_endpoint
from tunesmith_evidence.endpoint.client import Endpoint

__all__ = ["make_existing_run"]


def make_existing_run(
    base: str, tuned: str, train: Path, test: Path, model: str = "", token: str | None = None
) -> dict[str, Any]:
    """Return the tables of a run file that measures an existing model instead of training one.

    Without ``model``, an endpoint is asked for the only model that it lists.

    Raises:
        UsageError: the address is not allowed, or the endpoint does not list exactly one model.
    """
    if is_endpoint(tuned) and not model:
        try:
            check_endpoint(tuned, token)
        except ValueError as error:
            raise UsageError(f"--tuned {tuned}: cannot be used as an endpoint: {error}") from None
        model = Endpoint(tuned, "", token).with_only_model().model
    technique: dict[str, Any] = {"use": "existing", "tuned": tuned}
    technique |= {"endpoint_model": model} if model else {}
    technique |= {"token_variable": token} if token else {}
    return {
        "run": {"name": "verdict"},
        "model": {"base": base},
        "data": {"train": str(train.resolve()), "test": str(test.resolve())},
        "technique": technique,
    }
