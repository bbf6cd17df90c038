"""The README and the how-to: their commands exist, their tables and lines are valid."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from conftest import make_rows, write_lines

from tunesmith import api
from tunesmith_monitor import ab_command, monitor_command, report, retrain_command
from tunesmith_monitor.budget import LAYERS
from tunesmith_monitor.monitor import MonitorOptions
from tunesmith_monitor.serve_extension import MonitorExtensionOptions
from tunesmith_monitor.traffic import parse_line

ROOT = Path(__file__).parents[1]
README, GUIDE = ROOT / "README.md", ROOT.parents[1] / "docs" / "how-to" / "monitor.md"
COMMANDS = {
    "monitor": monitor_command.command,
    "ab": ab_command.command,
    "retrain": retrain_command.command,
}


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}[^\n]*\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda page: page.name)
def test_its_commands_exist(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tickets").mkdir(parents=True)
    (tmp_path / "runs" / "service").symlink_to("tickets")
    for name in ("traffic.jsonl", "outcomes.jsonl", "labeled.jsonl"):
        (tmp_path / name).touch()
    found = 0
    text = "\n".join(b for kind in ("console", "text", "ini", "yaml") for b in blocks(page, kind))
    for name, rest in re.findall(r"tunesmith (?:-q )?(monitor|ab|retrain) ([^|;\"\n]*)", text):
        COMMANDS[name].make_context(name, shlex.split(rest, comments=True))
        found += 1
    assert found >= 2
    with pytest.raises(click.UsageError):
        COMMANDS["monitor"].make_context("monitor", ["runs/tickets", "--trafic", "x"])


def test_the_run_file_is_valid(tiny_model: Path, tmp_path: Path) -> None:
    tables = [tomllib.loads(block) for block in blocks(README, "toml")]
    (run_file,) = (table for table in tables if "model" in table)
    run_file["model"]["base"] = str(tiny_model)
    run_file["data"]["train"] = str(write_lines(tmp_path / "t.jsonl", make_rows(500, 0)))
    plan, _ = api.load_plan(run_file)
    assert [e.offer.name for e in plan.evaluators] == ["exact-match", "review"]


def test_extension_tables_and_lines_are_valid() -> None:
    tables = [tomllib.loads(block) for page in (README, GUIDE) for block in blocks(page, "toml")]
    used = [MonitorExtensionOptions(**t["monitor"]) for t in tables if "monitor" in t]
    assert len(used) == 3 and used[-1].candidate
    traffic, outcomes = blocks(GUIDE, "json")
    assert all(parse_line(line) for line in traffic.splitlines())
    assert json.loads(outcomes).keys() == {"id", "outcome"}


def test_numbers_in_the_guide_are_those_of_the_code() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    options = MonitorOptions.model_fields
    assert f"one false alarm per {options['run_length'].default:,} requests" in text
    assert f"windows of {options['window'].default} and 200" in text
    assert [*LAYERS] == re.findall(r"^\| (inputs|confidence|labels) \|", text, re.MULTILINE)
    assert LAYERS["inputs"] == 0.5 and "Inputs get half" in text
    codes = dict(re.findall(r"^\| (\d+) \| .*?(look|page) \|", text, re.MULTILINE))
    assert codes == {str(report.LOOK): "look", str(report.PAGE): "page"}
    (job,) = (yaml.safe_load(block) for block in blocks(GUIDE, "yaml"))
    assert job["kind"] == "CronJob" and f"-eq {report.LOOK}" in str(job)
    assert f"SuccessExitStatus={report.LOOK}" in text
