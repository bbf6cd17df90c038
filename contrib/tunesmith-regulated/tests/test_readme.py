"""The README's run file and policy work, and so do its commands; the page for auditors is true."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from project import Project, write_rows
from test_tampering import KINDS

from tunesmith.options import from_table
from tunesmith_cli.app import app
from tunesmith_regulated.options import PolicyOptions, Roles

FOLDER = Path(__file__).parents[1]
README = (FOLDER / "README.md").read_text(encoding="utf-8")
AUDITOR = (FOLDER / "AUDITOR.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_its_run_file_and_policy_run(new_project: Project) -> None:
    run_file, policy = blocks("toml")
    folder = new_project.folder
    run_file = run_file.replace("HuggingFaceTB/SmolLM2-135M-Instruct", "base")
    run_file = run_file.replace('use = "lora"', 'use = "ngram"')
    side_effects = "\n[run]\nside_effects = false\n[baselines]\nuse = []\n"
    (folder / "run.toml").write_text(run_file + side_effects, encoding="utf-8")
    write_rows(folder / "tickets.jsonl", count=60)
    options = from_table(PolicyOptions, tomllib.loads(policy))
    assert options.roles.start and options.keep_runs
    account = new_project.policy.options.roles.start[0]
    policy = re.sub(r"start = \[.*\]", f'start = ["{account}"]', policy)
    policy = re.sub(r"plugins = \[\]", 'plugins = ["file"]', policy)
    new_project.policy_file.write_text(policy, encoding="utf-8")
    new_project.policy_file.chmod(0o644)
    new_project.run("first")
    done = new_project.call("audit", "verify", new_project.policy_file)
    assert done.exit_code == 0, done.output


def test_its_options_exist() -> None:
    named = re.findall(r"^\| `([\w.]+)` \|", README, re.MULTILINE)
    roles = [f"roles.{name}" for name in Roles.model_fields]
    options = [name for name in PolicyOptions.model_fields if name != "roles"]
    assert sorted(named) == sorted([*options, *roles])


@pytest.mark.parametrize("page", [README, AUDITOR])
def test_its_commands_exist(page: str) -> None:
    console = "\n".join(re.findall(r"```console\n(.*?)```", page, re.DOTALL))
    commands = re.findall(r"^\$ tunesmith (.*)$", console, re.MULTILINE)
    assert commands
    for line in commands:
        arguments = shlex.split(line, comments=True)
        context = app.make_context("tunesmith", arguments)
        _, command, rest = app.resolve_command(context, arguments)
        if isinstance(command, click.Group):
            _, command, rest = command.resolve_command(context, rest)
        assert command is not None and command.make_parser(context).parse_args(rest), line


def test_the_auditors_page_counts_the_kinds_of_tampering() -> None:
    assert f"{len(KINDS)} kinds of tampering" in AUDITOR
