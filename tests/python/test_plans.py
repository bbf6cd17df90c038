"""Checks, plans and estimates: as the command line prints them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_runs import tables

import tunesmith
from tunesmith.errors import ConfigError
from tunesmith.estimates import Assumptions
from tunesmith_cli.app import app
from tunesmith_python.plans import check, estimate, make_plan
from tunesmith_torch.testing.tiny_model import save_tiny_model


def test_they_are_public_names() -> None:
    public = (tunesmith.check, tunesmith.estimate, tunesmith.make_plan)
    assert public == (check, estimate, make_plan)


def test_findings_are_returned(tmp_path: Path) -> None:
    (rows,) = tunesmith.check(tables(tmp_path))
    assert (rows.level, rows.source) == ("info", "data.test")
    found, _ = tunesmith.check(tables(tmp_path), set={"run.seed": 13})
    assert (found.level, found.source) == ("warning", "run.seed")
    error, _ = tunesmith.check(tables(tmp_path), set={"run.seed": 666})
    assert error.level == "error"


def test_all_problems_of_a_run_file_are_raised_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        tunesmith.check(tables(tmp_path), set={"run.sed": 1, "technique.steps": 0})
    assert [problem.where for problem in caught.value.problems] == ["run.sed", "technique.steps"]


def test_the_plan_has_all_defaults(tmp_path: Path) -> None:
    plan = tunesmith.make_plan(tables(tmp_path), set={"technique.pause": 0.5})
    assert plan.origins["technique.pause"] == "--set"
    (tmp_path / "run.toml").write_text(plan.to_toml(), encoding="utf-8")
    again = tunesmith.make_plan(tmp_path / "run.toml")
    assert again.to_json() == plan.to_json() and again.run.seed == 42


@pytest.mark.processes
def test_the_estimate_is_that_of_the_command(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    (tmp_path / "run.toml").write_text(
        f'[model]\nbase = "{model}"\n[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\n'
        '[technique]\nuse = "lora"\n'
    )
    assume = Assumptions(sequence=32, rows=100)
    found = tunesmith.estimate(tmp_path / "run.toml", assume=assume, quick=True)
    command = ["plan", str(tmp_path / "run.toml"), "--assume", "sequence=32,rows=100"]
    result = CliRunner().invoke(app, [*command, "--quick", "--json"])
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    for content in (found, printed):
        # Free memory changes from moment to moment; a note names it, too.
        del content["this_machine"]["available"]
        content["notes"] = [note for note in content["notes"] if "available" not in note]
    assert json.loads(json.dumps(found)) == printed
    better = tunesmith.estimate(tmp_path / "run.toml", assume=assume)
    methods = [content["work"]["lora"]["method"] for content in (found, better)]
    assert methods == ["analytic", "traced"]
