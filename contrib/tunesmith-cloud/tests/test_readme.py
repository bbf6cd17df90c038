"""The README: its commands exist, its table is one of a run file."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

from tunesmith import api
from tunesmith_cloud.command import command
from tunesmith_cloud.options import CloudOptions

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_its_commands_exist() -> None:
    lines = [line for line in README.splitlines() if line.startswith("$ tunesmith submit ")]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line.removeprefix("$ tunesmith submit "))
        command.make_context("submit", words, resilient_parsing=False)


def test_its_table_is_valid(tiny_model: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    tables = tomllib.loads(block)
    tables["model"]["base"] = str(tiny_model)
    tables["data"]["train"] = str(tmp_path / "rows.jsonl")
    plan, _ = api.load_plan(tables)
    assert plan.table(CloudOptions).gpus == "A100:1"
