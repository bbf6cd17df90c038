"""The ``check`` command: the data, all problems at once, origins of values, an example row."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
from tests.plugins.commands.conftest import FAKE, RUN_FILE, Tunesmith

from tunesmith import api
from tunesmith_cli import render
from tunesmith_plugins.commands.runs.check_data import check_data


def test_check_shows_the_data_and_an_example_row(tunesmith: Tunesmith, tmp_path: Path) -> None:
    with (tmp_path / "data.tsv").open("a") as file:
        file.write("no tab\nanother\n")
    done = tunesmith("check", "run.toml")
    assert done.exit_code == 0, done.output
    assert "6 training rows, 4 test rows" in done.stdout
    assert "skipped: 2 rows, no answer, first data.tsv:11" in done.stdout
    learned = [line for line in done.stdout.splitlines() if "▌ " in line]
    assert learned[-1].split()[1:3] == ["assistant", "SAY"]
    assert not (tmp_path / "runs").exists()


def test_notes_are_wrapped_at_the_width_of_the_terminal(
    tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talks.py").write_text(
        "from tunesmith.contracts import Finding\n"
        "from tunesmith.hookspecs import hookimpl\n\n\n"
        "@hookimpl\ndef tunesmith_review_plan(plan):\n"
        '    return [Finding(level="info", where="talk", message="many words " * 9)]\n'
    )
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,talks")
    monkeypatch.setattr(render, "PIPE_WIDTH", 60)
    done = tunesmith("--plugin", "talks.py", "check", "run.toml")
    assert done.exit_code == 0, done.output
    notes = done.stdout.partition("\n\n")[0].splitlines()
    assert any(note.startswith("info: talk: many words") for note in notes)
    assert max(map(len, notes)) <= 60


def test_check_names_all_problems_at_once(tunesmith: Tunesmith, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        RUN_FILE.replace('use = "by-heart"', 'use = "by-heart"\nstpes = 3\npause = -1.0')
        .replace('base = "fake:one"', 'base = "nowhere/at-all"\nrevison = "1"')
        .replace("[model]", "[runn]\nx = 1\n[model]")
        .replace('use = "same"', 'use = "smae"')
    )
    done = tunesmith("check", "run.toml")
    assert done.exit_code == 2
    for text in (
        "runn: unknown table (did you mean [run]?)",
        'technique.stpes: unknown key (did you mean "steps"?)',
        "technique.pause: should be greater than or equal to 0, got -1.0",
        'model.revison: unknown key (did you mean "revision"?)',
        'evaluators.0.use: no evaluator "smae" is installed (did you mean "same"?)',
    ):
        assert text in done.stderr
    assert done.stdout == ""


def test_reviewers_warn_and_refuse(tunesmith: Tunesmith, tmp_path: Path) -> None:
    warned = tunesmith("check", "run.toml", "--set", "run.seed=13")
    assert warned.exit_code == 0
    assert "warning: run.seed: brings" in warned.stdout
    for command in ("check", "run"):
        refused = tunesmith(command, "run.toml", "--set", "run.seed=666")
        assert refused.exit_code == 2
        assert "error: run.seed: is the number of the beast" in refused.stderr
        assert refused.output.count("is the number of the beast") == 1, command
    events = (next((tmp_path / "runs").iterdir()) / "events.jsonl").read_text()
    assert "training-started" not in events


def test_libraries_that_only_a_run_needs_are_warnings(
    tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name in ("numpy", "jinja2"):
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    done = tunesmith("check", "run.toml")
    assert done.exit_code == 0, done.output
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == len({line.split(": ")[1] for line in warnings}), "one for each"
    assert (
        "warning: data: the rows are not split, because libraries of the splitter are missing"
        in warnings
    )
    missing = "libraries that the run needs are missing: jinja2>=3.1 is not installed"
    assert f"warning: reporter html: {missing}" in warnings
    assert "pip install 'numpy>=1.26' 'jinja2>=3.1'" in done.stderr
    found = json.loads(tunesmith("check", "run.toml", "--json").stdout)
    assert found["data"]["train"] == 10 and found["evaluators"] == ["same"]
    plan, catalog = api.load_plan("run.toml", files=[str(FAKE)], runnable=False)
    assert {n.source for n in check_data(plan, catalog)[2]} == {
        line.removeprefix("warning: ").partition(": ")[0] for line in warnings
    }
    refused = tunesmith("run", "run.toml")
    assert refused.exit_code == 4
    assert "numpy>=1.26 is not installed; jinja2>=3.1 is not installed" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_command_line_beats_environment_beats_file(
    tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps() -> tuple[int, str]:
        done = tunesmith("check", "run.toml", "--json", *extra)
        found = json.loads(done.stdout)
        return found["plan"]["technique"]["steps"], found["origins"]["technique.steps"]["origin"]

    extra: list[str] = []
    assert steps() == (6, "default")
    (tmp_path / "run.toml").write_text(RUN_FILE.replace('"by-heart"', '"by-heart"\nsteps = 7'))
    assert steps() == (7, "run.toml")
    monkeypatch.setenv("TUNESMITH__TECHNIQUE__STEPS", "8")
    assert steps() == (8, "environment variable TUNESMITH__TECHNIQUE__STEPS")
    extra = ["--set", "technique.steps=9"]
    assert steps() == (9, "--set")


def test_origin_lists_every_value(tunesmith: Tunesmith, tmp_path: Path) -> None:
    done = tunesmith("check", "run.toml", "--origin", "--set", "run.seed=7")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if "." in line}
    assert rows["run.seed"].split()[1:] == ["7", "--set"]
    assert rows["technique.steps"].split()[-1] == "default"
    assert rows["plugins.files"].split()[-1] == "--plugin"
    assert rows["evaluators.0.use"].split()[-1] == "run.toml"


def test_the_contents_of_the_data_and_several_rows_are_shown(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    from tunesmith_plugins.commands.runs.check import EXCERPT

    done = tunesmith("check", "run.toml")
    assert re.search(r"^train: \d+ rows of ", done.stdout, re.MULTILINE)
    shown = [
        line.split()[0]
        for line in done.stdout.splitlines()
        if "marks text that is trained on" in line
    ]
    assert shown[0] == "first"
    assert {"longest", "random"} & {*shown}
    assert max(map(len, done.stdout.splitlines())) < EXCERPT + 100
    found = json.loads(tunesmith("check", "run.toml", "--json").stdout)
    assert found["schema"] == "tunesmith.check/2"
    assert [example["reason"] for example in found["examples"]] == shown
    assert found["contents"]


def test_check_says_why_the_run_could_not_fetch_its_model(tunesmith: Tunesmith) -> None:
    far = "--set", "model.base=fake:far"
    done = tunesmith("check", "run.toml", *far)
    assert done.exit_code == 2
    assert done.stderr == "error: model.base: no answer from the server\n"
    found = json.loads(tunesmith("check", "run.toml", *far, "--json").stdout)["findings"]
    assert [f["source"] for f in found if f["level"] == "error"] == ["model.base"]
