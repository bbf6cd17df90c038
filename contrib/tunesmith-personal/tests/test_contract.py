"""The plugin passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_personal import PLUGIN
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder


@parametrize_checks(PLUGIN, model=get_tiny_model_folder)
def test_contract(check: Any) -> None:
    check()
