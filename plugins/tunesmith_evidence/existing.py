"""Write the run file for measuring a model that was fine-tuned with another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["make_existing_run"]


def make_existing_run(
    base: str, tuned: str, train: Path, test: Path, model: str = "", token: str | None = None
) -> dict[str, Any]:
    """Return the tables of a run file that measures an existing model instead of training one."""
    technique: dict[str, Any] = {"use": "existing", "tuned": tuned}
    technique |= {"endpoint_model": model} if model else {}
    technique |= {"token_variable": token} if token else {}
    return {
        "run": {"name": "verdict"},
        "model": {"base": base},
        "data": {"train": str(train.resolve()), "test": str(test.resolve())},
        "technique": technique,
    }
