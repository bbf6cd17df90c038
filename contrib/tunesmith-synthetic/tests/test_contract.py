"""Generators, loader, review and commands pass the conformance kit of tunesmith."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from conftest import make_rows, write_lines
from faulty_server import FaultyServer
from generation import invoke, write_generation

from tunesmith.testing import parametrize_checks
from tunesmith_synthetic import PLUGIN

RUN_FILE = """
[model]
base = "model"

[data]
use = "jsonl"
train = "rows.jsonl"
test = "test.jsonl"

[technique]
use = "lora"
"""
FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
SERVER = FaultyServer()
SERVER.__enter__()


def write_project() -> str:
    """Write a project with generated rows; return their folder."""
    (FOLDER / "model").mkdir()
    (FOLDER / "model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    write_lines(FOLDER / "rows.jsonl", make_rows(0, 30))
    write_lines(FOLDER / "test.jsonl", make_rows(100, 30))
    (FOLDER / "run.toml").write_text(RUN_FILE)
    done = invoke("data", "generate", write_generation(FOLDER, {"use": "rules"}))
    assert done.exit_code == 0, done.output
    return str(FOLDER / "synthetic")


POOL = FOLDER / "pool.txt"
POOL.write_text("".join(f"{row['prompt']}\n" for row in make_rows(200, 12)))


@parametrize_checks(
    PLUGIN,
    samples={
        "synthetic": {"folder": write_project()},
        "pseudo-label": {"pool": str(POOL), "labelers": ["linear"]},
        "self": {"prompts": str(POOL)},
        "endpoint": {"url": SERVER.url, "model": "teacher"},
    },
    broken={"synthetic": {"folder": str(FOLDER)}},
)
def test_contract(check: Any) -> None:
    check()
