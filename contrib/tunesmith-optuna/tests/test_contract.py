"""Table, data loader and command pass the conformance kit of tunesmith."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_optuna import PLUGIN

RUN_FILE = """
[model]
base = "model"

[data]
use = "jsonl"
train = "rows.jsonl"

[technique]
use = "lora"
"""


def write_project(rows: str) -> str:
    """Write a run file and its rows into a temporary folder; return its path."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    (folder / "run.toml").write_text(RUN_FILE, encoding="utf-8")
    return str(folder / "run.toml")


ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(130)]
SAMPLE = write_project("".join(json.dumps(row) + "\n" for row in ROWS))
BROKEN = write_project("not a row\n")


@parametrize_checks(
    PLUGIN,
    samples={"validation-part": {"plan": SAMPLE}},
    broken={"validation-part": {"plan": BROKEN}},
)
def test_contract(check: Any) -> None:
    check()
