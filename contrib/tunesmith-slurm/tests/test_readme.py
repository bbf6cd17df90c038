"""The README and the how-to: their commands exist, their tables are those of run files."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from tunesmith import api
from tunesmith_cli.app import app
from tunesmith_slurm.options import SlurmOptions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT.parents[1] / "docs" / "how-to" / "cluster.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def parse(command: click.Command, words: list[str]) -> str:
    """Parse a command line without running it; return the name of its command."""
    context = click.Context(command, obj=None)
    context.allow_interspersed_args = not isinstance(command, click.Group)
    _, rest, _ = command.make_parser(context).parse_args(words)
    if not isinstance(command, click.Group):
        return str(command.name)
    _, subcommand, rest = command.resolve_command(context, rest)
    assert subcommand is not None
    return parse(subcommand, rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_exist(page: Path) -> None:
    lines = "".join(blocks(page, "console")).splitlines()
    found = [
        parse(app, shlex.split(line.removeprefix("$ tunesmith "), comments=True))
        for line in lines
        if line.startswith("$ tunesmith slurm ")
    ]
    assert {"submit", "status", "logs", "cancel"} == set(found)
    with pytest.raises(click.UsageError):
        parse(app, ["slurm", "submit", "run.toml", "--patrition", "gpu"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_tables_are_valid(page: Path, tiny_model: Path, tmp_path: Path) -> None:
    (block,) = blocks(page, "toml")
    tables = {"technique": {"use": "lora"}, "data": {"use": "jsonl"}, **tomllib.loads(block)}
    tables["model"] = {"base": str(tiny_model)}
    tables["data"] = {"use": "jsonl", "train": str(tmp_path / "rows.jsonl")}
    plan, _ = api.load_plan(tables)
    assert plan.table(SlurmOptions).partition == "gpu"


def test_the_how_to_names_every_option() -> None:
    page = PAGES[1].read_text(encoding="utf-8")
    assert set(SlurmOptions.model_fields) == set(re.findall(r"`(\w+)`", page)) & set(
        SlurmOptions.model_fields
    )
