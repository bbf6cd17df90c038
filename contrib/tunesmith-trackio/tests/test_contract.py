"""The reporter passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_trackio import PLUGIN


@parametrize_checks(PLUGIN, samples={"trackio": {"project": "kit"}})
def test_contract(check: Any) -> None:
    check()
