"""The reporter passes the conformance kit of tunesmith."""

from __future__ import annotations

import tempfile
from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_wandb import PLUGIN

FOLDER = tempfile.TemporaryDirectory()


@parametrize_checks(PLUGIN, samples={"wandb": {"folder": FOLDER.name, "wait": 50}})
def test_contract(check: Any) -> None:
    check()
