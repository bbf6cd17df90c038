"""The README: its run file continues a run, and its options and commands exist."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from training import invoke, write_rows

from tunesmith_cli.app import app
from tunesmith_continual.options import RetentionOptions
from tunesmith_continual.serving import AdaptersOptions

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_its_run_file_continues_a_run(chain: Path, tmp_path: Path) -> None:
    run_file, _ = blocks("toml")
    write_rows(tmp_path, "returns", 40)
    (tmp_path / "returns.toml").write_text(run_file, encoding="utf-8")
    done = invoke(
        "continue", chain / "red", tmp_path / "returns.toml", "--out", tmp_path / "run", "-q",
        "--set", "run.side_effects=false", "--set", "baselines.use=[]", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["matrix"]) == 2
    assert (tmp_path / "run" / "additions" / "retention" / "replayed.jsonl").is_file()


def test_its_options_exist() -> None:
    _, extension = blocks("toml")
    assert AdaptersOptions(**tomllib.loads(extension)["adapters"]).folder == "runs"
    table = README.partition("| option |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert len(named) == 5 and named == [n for n in RetentionOptions.model_fields if n in named]


def test_its_commands_exist() -> None:
    lines = [line for text in blocks("console") for line in text.splitlines()]
    commands = [line.removeprefix("$ tunesmith ") for line in lines if "$ tunesmith " in line]
    assert len(commands) >= 5
    for line in commands:
        arguments = shlex.split(line, comments=True)
        context = app.make_context("tunesmith", arguments)
        _, command, rest = app.resolve_command(context, arguments)
        assert command is not None, line
        if isinstance(command, click.Group):
            _, command, rest = command.resolve_command(context, rest)
        assert command is not None and command.make_parser(context).parse_args(rest)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="reply"):
        RetentionOptions(reply=0.1)  # type: ignore[call-arg]
