"""The plugin passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_monitor import PLUGIN


@parametrize_checks(PLUGIN, samples={"monitor": {"log": "/dev/null"}})
def test_contract(check: Any) -> None:
    check()
