"""The exporter passes the conformance kit of tunesmith."""

from __future__ import annotations

from functools import partial
from typing import Any

from small_model import save_small_model

from tunesmith.testing import parametrize_checks
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder
from tunesmith_vllm import PLUGIN


@parametrize_checks(PLUGIN, model=partial(get_tiny_model_folder, save_small_model))
def test_contract(check: Any) -> None:
    check()
