"""The README and the how-to: their commands exist, their tables are those of run files."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from tunesmith import api
from tunesmith_optuna.command import command
from tunesmith_optuna.options import TuneOptions
from tunesmith_optuna.request import Request
from tunesmith_optuna.space import read_argument, read_space
from tunesmith_optuna.trial_run import find_objective

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT.parents[1] / "docs" / "how-to" / "tune.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_exist(page: Path, tmp_path: Path) -> None:
    lines = [
        line.removeprefix("$ tunesmith tune ")
        for line in "".join(blocks(page, "console")).splitlines()
        if line.startswith("$ tunesmith tune ")
    ]
    assert lines
    for line in lines:
        context = command.make_context("tune", shlex.split(line, comments=True))
        read_space(dict(map(read_argument, context.params["searches"])))
    with pytest.raises(click.UsageError):
        command.make_context("tune", ["run.toml", "--trails", "3"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_space_is_one_that_can_be_searched(
    page: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (block,) = blocks(page, "toml")
    tables = {"technique": {"use": "lora"}, **tomllib.loads(block)}
    tables["model"] = {"base": str(tiny_model)}
    tables["data"] = {"use": "jsonl", "train": str(tmp_path / "rows.jsonl")}
    plan, catalog = api.load_plan(tables)
    options = plan.table(TuneOptions)
    assert options.trials >= 20 and len(options.space.dimensions) >= 2
    Request(plan, catalog, find_objective(plan, catalog, options.metric)).check_space(None)


def test_the_how_to_names_every_option_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \|", PAGES[1].read_text(encoding="utf-8"), re.MULTILINE
    )
    named = {key: default.strip("` ") for key, default in rows}
    assert named.keys() == TuneOptions.model_fields.keys()
    for key, default in {"metric": "loss", "trials": "20", "parallel": "1"}.items():
        assert named[key] == default == str(TuneOptions.model_fields[key].default)
