"""The data loader passes the conformance kit of tunesmith."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from samples import expected, openai, otlp, write

from tunesmith.testing import LoaderExample, parametrize_checks
from tunesmith_traces import PLUGIN

FOLDER = tempfile.TemporaryDirectory()
GOOD = str(write(Path(FOLDER.name) / "good.jsonl", openai()))
SPANS = str(write(Path(FOLDER.name) / "spans.jsonl", otlp()))
BROKEN = str(write(Path(FOLDER.name) / "broken.jsonl", [{"id": "1", "choices": []}]))


@parametrize_checks(
    PLUGIN,
    samples={"traces": {"train": GOOD}},
    broken={"traces": {"train": BROKEN}},
    examples={"traces": [LoaderExample(options={"train": SPANS}, train=expected())]},
)
def test_contract(check: Any) -> None:
    check()
