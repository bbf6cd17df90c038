"""The pages: the run file of the README runs, and options and commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from people import invoke

from tunesmith_cli.app import app
from tunesmith_personal.options import EvidenceOptions
from tunesmith_personal.serving import PersonalServingOptions

FOLDER = Path(__file__).parents[1]
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_its_run_file_runs(readme_run_file: Path, tmp_path: Path) -> None:
    done = invoke("run", readme_run_file, "--out", tmp_path / "run", "-q")
    assert done.exit_code == 0, done.output
    listed = invoke("adapters", "list", tmp_path / "run")
    assert "ann" in listed.output and "ben" in listed.output


@pytest.mark.parametrize(("page", "count"), [("README", 8), ("TUTORIAL", 6), ("PRIVACY", 2)])
def test_commands_exist(page: str, count: int) -> None:
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\$ tunesmith (.*)$", text, re.MULTILINE)
    assert len(lines) >= count
    for line in lines:
        arguments = shlex.split(line, comments=True)
        context = app.make_context("tunesmith", arguments)
        _, command, rest = app.resolve_command(context, arguments)
        if isinstance(command, click.Group):
            _, command, rest = command.resolve_command(context, rest)
        assert command is not None and command.make_parser(context).parse_args(rest)


def test_its_baselines_and_options_exist() -> None:
    table = README.partition("| baseline |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    assert named == EvidenceOptions().baselines
    assert "resident" in PersonalServingOptions.model_fields
