"""Shells complete the keys of run files, for ``--set`` and for ``explain``."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from tunesmith_cli.app import app
from tunesmith_cli.completion import ADD_WORD, NO_SPACE


def complete(*words: str) -> dict[str, str]:
    """Return the completions of the last word, each with its help."""
    shell = ShellComplete(app, {}, "tunesmith", "_TUNESMITH_COMPLETE")
    found = shell.get_completions([*words[:-1]], words[-1])
    return {item.value: item.help or "" for item in found}


@pytest.mark.parametrize("command", [["run", "x.toml"], ["check", "x.toml"], ["data", "show", "x"]])
def test_keys_are_completed_after_set(command: list[str]) -> None:
    found = complete(*command, "--set", "technique.sched")
    assert [*found] == ["technique.schedule.type=", "technique.schedule.warmup_ratio="]
    assert found["technique.schedule.type="].startswith("How the learning rate")


def test_keys_of_the_core_of_components_and_of_tables_are_completed() -> None:
    found = complete("run", "x.toml", "--set", "")
    assert {"run.seed=", "data.train=", "technique.adapter.rank=", "baselines.prompt.files="} <= {
        *found
    }
    assert all(text and "\n" not in text for text in found.values())
    assert complete("run", "x.toml", "--set", "no.such") == {}


def test_explain_completes_whole_keys() -> None:
    assert [*complete("explain", "run.se")] == ["run.seed"]


def test_bash_adds_no_space_after_an_equals_sign() -> None:
    script = CliRunner().invoke(app, ["--show-completion", "bash"]).stdout.splitlines()
    (line,) = [n for n, text in enumerate(script) if text.strip() == ADD_WORD]
    assert script[line + 1].strip() == NO_SPACE
    assert NO_SPACE not in CliRunner().invoke(app, ["--show-completion", "zsh"]).stdout
