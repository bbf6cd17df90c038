"""The reporter passes the conformance kit of tunesmith."""

from __future__ import annotations

import tempfile
from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_tensorboard import PLUGIN

FOLDER = tempfile.TemporaryDirectory()


@parametrize_checks(PLUGIN, samples={"tensorboard": {"folder": FOLDER.name}})
def test_contract(check: Any) -> None:
    check()
