"""The plugin passes the conformance kit of tunesmith.

The sample is AdaLoRA: a loss term over weights, a hook after each step, ratings in checkpoints.
"""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_peft import PLUGIN
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder


@parametrize_checks(PLUGIN, model=get_tiny_model_folder)
def test_contract(check: Any) -> None:
    check()
