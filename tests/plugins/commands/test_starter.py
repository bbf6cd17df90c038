"""``tunesmith init`` writes a run file, ``tunesmith example`` copies an example project."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from tunesmith_plugins.commands.starter.example_command import find_examples
from tunesmith_plugins.commands.starter.init_command import fill_template

Tunesmith = Callable[..., Result]


def test_init_writes_a_run_file_that_parses_and_overwrites_nothing(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    (tmp_path / 'tick"ets.jsonl').write_text("{}")
    done = tunesmith("init", "new", "--data", 'tick"ets.jsonl', "--model", "C:\\models")
    assert done.exit_code == 0, done.output
    written = tomllib.loads((tmp_path / "new" / "run.toml").read_text())
    assert written["data"]["train"] == '../tick"ets.jsonl'
    assert written["model"]["base"] == "C:\\models"
    assert tunesmith("init", "new").exit_code == 2
    assert tunesmith("init", "new", "--force").exit_code == 0


def test_init_copies_an_example(tunesmith: Tunesmith, tmp_path: Path) -> None:
    done = tunesmith("init", "desk", "--example", "helpdesk")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "desk").iterdir()} >= {"run.toml", "train.jsonl"}
    assert tunesmith("example", "helpdesk", "desk").exit_code == 2
    assert "did you mean helpdesk?" in tunesmith("example", "heldpesk").stderr


def test_init_prints_the_next_commands(tunesmith: Tunesmith, tmp_path: Path) -> None:
    done = tunesmith("init", "new")
    assert done.stdout == "new/run.toml\n"
    assert "set data.train to your data file" in done.stderr
    assert "tunesmith run new/run.toml" in done.stderr
    missing = tunesmith("init", "other", "--data", "gone.jsonl")
    assert missing.exit_code == 2 and "gone.jsonl: no such file" in missing.stderr


def test_a_template_keeps_every_value() -> None:
    text = fill_template(model='a"b', loader="table", data="naïve.csv")
    tables = tomllib.loads(text)
    assert tables["model"]["base"] == 'a"b'
    assert (tables["data"]["use"], tables["data"]["train"]) == ("table", "naïve.csv")


def test_example_lists_and_copies(tunesmith: Tunesmith, tmp_path: Path) -> None:
    assert tunesmith("example").stdout.split() == list(find_examples()) == ["helpdesk"]
    done = tunesmith("example", "helpdesk")
    assert done.exit_code == 0, done.output
    assert "tunesmith run helpdesk/run.toml" in done.stderr
    refused = tunesmith("init", "helpdesk", "--example", "helpdesk")
    assert refused.exit_code == 2 and "--force replaces it" in refused.stderr
    assert tunesmith("init", "helpdesk", "--example", "helpdesk", "--force").exit_code == 0
    unknown = tunesmith("init", "x", "--example", "heldpesk")
    assert unknown.exit_code == 2 and "did you mean helpdesk?" in unknown.stderr
