"""The reporter passes the conformance kit of tunesmith."""

from __future__ import annotations

import tempfile
from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_otel import PLUGIN

FOLDER = tempfile.TemporaryDirectory()


@parametrize_checks(PLUGIN, samples={"otel": {"file": f"{FOLDER.name}/spans.jsonl"}})
def test_contract(check: Any) -> None:
    check()
