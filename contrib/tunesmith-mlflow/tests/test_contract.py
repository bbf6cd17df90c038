"""The reporter passes the conformance kit of tunesmith."""

from __future__ import annotations

import tempfile
from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_mlflow import PLUGIN

FOLDER = tempfile.TemporaryDirectory()


@parametrize_checks(
    PLUGIN, samples={"mlflow": {"uri": f"sqlite:///{FOLDER.name}/runs.db", "wait": 50}}
)
def test_contract(check: Any) -> None:
    check()
