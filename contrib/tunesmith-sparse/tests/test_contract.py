"""The technique passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_sparse import PLUGIN
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

SAMPLE: dict[str, Any] = {
    "density": 0.1,
    "mask": "gradient",
    "learning_rate": 0.01,
    "epochs": 8.0,
    "batch_size": 4,
    "precision": "fp32",
}


@parametrize_checks(PLUGIN, model=get_tiny_model_folder, samples={"sparse": SAMPLE})
def test_contract(check: Any) -> None:
    check()
