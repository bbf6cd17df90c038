"""The README and the how-to: their commands exist, their table is one of a run file."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from tunesmith import api
from tunesmith_remote import PLUGIN
from tunesmith_remote.options import RemoteOptions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT.parents[1] / "docs" / "how-to" / "object-storage.md"]
COMMANDS = {
    offer.name.removeprefix("remote "): offer.load() for offer in PLUGIN.tunesmith_commands()
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def parse(line: str) -> str:
    """Parse a command line without running it; return the name of its command."""
    name, *words = shlex.split(line.removeprefix("$ tunesmith remote "), comments=True)
    COMMANDS[name].make_context(name, words)
    return name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_exist(page: Path) -> None:
    lines = "".join(blocks(page, "console")).splitlines()
    found = {parse(line) for line in lines if line.startswith("$ tunesmith remote ")}
    assert found == set(COMMANDS)
    with pytest.raises(click.UsageError):
        parse("$ tunesmith remote push a b c")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_table_is_valid(page: Path, tiny_model: Path, tmp_path: Path) -> None:
    (block,) = blocks(page, "toml")
    tables = {"technique": {"use": "lora"}, **tomllib.loads(block)}
    tables["model"] = {"base": str(tiny_model)}
    tables["data"] = {"use": "jsonl", "train": str(tmp_path / "rows.jsonl")}
    plan, _ = api.load_plan(tables)
    assert plan.table(RemoteOptions).url == "s3://bucket/runs"
