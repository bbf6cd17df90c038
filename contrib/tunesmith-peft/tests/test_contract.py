"""The plugin passes the conformance kit of tunesmith.

The sample is AdaLoRA: a loss term over weights, a hook after each step, ratings in checkpoints.
"""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_peft import PLUGIN
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

SAMPLE: dict[str, Any] = {
    "method": "adalora",
    "options": {"init_r": 6, "target_r": 4, "tinit": 2},
    "learning_rate": 0.2,
    "epochs": 12.0,
    "batch_size": 4,
    "precision": "fp32",
}


@parametrize_checks(PLUGIN, model=get_tiny_model_folder, samples={"peft": SAMPLE})
def test_contract(check: Any) -> None:
    check()
