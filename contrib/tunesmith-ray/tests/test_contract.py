"""The table passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

import tunesmith_ray
from tunesmith.testing import parametrize_checks


@parametrize_checks(tunesmith_ray)
def test_contract(check: Any) -> None:
    check()
