"""The README and the how-to: their commands exist, their tables are those of run files."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from tunesmith import api
from tunesmith_ray import PLUGIN
from tunesmith_ray.options import RayOptions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT.parents[1] / "docs" / "how-to" / "ray.md"]
COMMANDS = {offer.name.removeprefix("ray "): offer.load() for offer in PLUGIN.tunesmith_commands()}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def parse(line: str) -> str:
    """Parse a command line without running it; return the name of its command."""
    name, *words = shlex.split(line.removeprefix("$ tunesmith ray "), comments=True)
    COMMANDS[name].make_context(name, words)
    return name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_exist(page: Path) -> None:
    lines = "".join(blocks(page, "console")).splitlines()
    found = {parse(line) for line in lines if line.startswith("$ tunesmith ray ")}
    assert found == set(COMMANDS)
    with pytest.raises(click.UsageError):
        parse("$ tunesmith ray submit run.toml --wrokers 2")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_tables_are_valid(page: Path, tiny_model: Path, tmp_path: Path) -> None:
    (block,) = blocks(page, "toml")
    tables = {"technique": {"use": "lora"}, **tomllib.loads(block)}
    tables["model"] = {"base": str(tiny_model)}
    tables["data"] = {"use": "jsonl", "train": str(tmp_path / "rows.jsonl")}
    plan, _ = api.load_plan(tables)
    assert plan.table(RayOptions).workers == 2


def test_the_how_to_has_every_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGES[1].read_text(encoding="utf-8"), re.M))
    fields = RayOptions.model_fields
    assert list(rows) == list(fields)
    plain = {name: str(info.default) for name, info in fields.items() if info.default is not None}
    assert {name: rows[name].strip("`") for name in plain} == plain
