"""The plugin passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_personal import PLUGIN
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

SAMPLE: dict[str, Any] = {
    "learning_rate": 0.01,
    "epochs": 8.0,
    "batch_size": 4,
    "precision": "fp32",
}


@parametrize_checks(PLUGIN, model=get_tiny_model_folder, samples={"personal": SAMPLE})
def test_contract(check: Any) -> None:
    check()
