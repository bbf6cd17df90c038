"""Table, reporter and commands pass the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

import tunesmith_remote
from tunesmith.testing import parametrize_checks


@parametrize_checks(tunesmith_remote)
def test_contract(check: Any) -> None:
    check()
