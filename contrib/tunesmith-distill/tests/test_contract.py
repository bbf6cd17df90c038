"""The technique passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_distill import PLUGIN
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

SAMPLE: dict[str, Any] = {
    "teacher": str(get_tiny_model_folder()),
    "weight": 0.2,
    "temperature": 2.0,
    "top_k": 16,
    "adapt": "lora",
    "learning_rate": 0.02,
    "epochs": 12.0,
    "batch_size": 4,
    "precision": "fp32",
}


@parametrize_checks(PLUGIN, model=get_tiny_model_folder, samples={"distill": SAMPLE})
def test_contract(check: Any) -> None:
    check()
