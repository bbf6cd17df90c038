"""``tunesmith evaluate`` measures runs, adapters and models on any rows, without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from tunesmith.errors import UsageError
from tunesmith.storage import RunFolder
from tunesmith_plugins.commands.evaluate.target import (
    TargetChoice,
    open_evaluation_target,
    select_winner_evaluators,
)

Tunesmith = Callable[..., Result]
FAKE = str(Path(__file__).parents[2] / "core" / "fake_plugin.py")


@pytest.fixture
def ready(tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    """The command, with a finished run and a file with two rows, one of which is answered right."""
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,evaluate,runs")
    assert tunesmith("run", "run.toml", "--out", "done").exit_code == 0
    (tmp_path / "new.tsv").write_text("say lion\tSAY LION\nsay bear\tGrrr\n")
    return tunesmith


def evaluate(tunesmith: Tunesmith, *args: str | Path) -> dict[str, object]:
    done = tunesmith("evaluate", *args, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_run_on_other_rows(ready: Tunesmith, tmp_path: Path) -> None:
    found = evaluate(ready, "done", "--data", "new.tsv", "--out", "results")
    assert found["schema"] == "tunesmith.evaluation/1"
    assert (found["which"], found["rows"]) == ("tuned", 2)
    (same,) = found["measured"]  # type: ignore[misc]
    assert (same["value"], same["n"], same["metric"]) == (0.5, 2, "same")
    assert json.loads((tmp_path / "results" / "evaluation.json").read_text()) == found
    rows = [
        json.loads(line)
        for line in (tmp_path / "results" / same["records"]).read_text().splitlines()
    ]
    assert [row["prompt"] for row in rows] == [[["user", "say lion"]], [["user", "say bear"]]]
    assert [row["same"]["value"] for row in rows] == [1, 0]
    assert not (tmp_path / "done" / "evaluations" / "tuned.same.jsonl").samefile(
        tmp_path / "results" / same["records"]
    )


def test_the_test_rows_of_the_run(ready: Tunesmith, tmp_path: Path) -> None:
    (same,) = evaluate(ready, "done")["measured"]  # type: ignore[misc]
    assert (same["value"], same["n"]) == (1.0, 4)
    assert len([*(tmp_path / "evaluations").iterdir()]) == 1
    (same,) = evaluate(ready, "done", "--base-only")["measured"]  # type: ignore[misc]
    assert (same["value"], same["n"]) == (0.0, 4)


def test_the_base_model_keeps_its_system_prompt(ready: Tunesmith, tmp_path: Path) -> None:
    text = (tmp_path / "run.toml").read_text()
    (tmp_path / "run.toml").write_text(text + '[baselines]\nsystem_prompt = "be loud"\nuse = []\n')
    assert ready("run", "run.toml", "--out", "loud").exit_code == 0
    for evaluators in ((), ("same",)):
        choice = TargetChoice("loud", None, "base", None, evaluators, (), (FAKE,), ())
        plan = open_evaluation_target(choice).plan
        assert plan.baseline_options.system_prompt == "be loud"


def test_a_model_on_the_rows_of_a_run(ready: Tunesmith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,evaluate,runs,full")
    choice = TargetChoice(
        "fake:one", None, "tuned", None, (), (), (FAKE,), (), rows_of=Path("done")
    )
    target = open_evaluation_target(choice)
    assert (target.label, len(target.records)) == ("model", 4)
    assert [evaluator.id for evaluator in target.evaluators] == ["same"]


def test_text(ready: Tunesmith) -> None:
    done = ready("evaluate", "done", "--data", "new.tsv")
    assert done.exit_code == 0, done.output
    assert "same (higher is better)" in done.stdout and "0.500" in done.stdout
    assert "evaluation: evaluations/" in done.stdout


@pytest.mark.parametrize(
    ("solution", "suit"), [("classifier", ["match"]), ("prompt", ["loss", "match"])]
)
def test_a_classifier_is_measured_by_its_answers(
    tmp_path: Path, solution: str, suit: list[str]
) -> None:
    (tmp_path / "winner").mkdir()
    (tmp_path / "winner" / "winner.json").write_text(json.dumps({"solution": solution}))
    offers = {"loss": False, "match": True}
    evaluators: Any = tuple(
        SimpleNamespace(id=name, offer=SimpleNamespace(generates=generates))
        for name, generates in offers.items()
    )
    target: Any = SimpleNamespace(evaluators=evaluators)
    assert [e.id for e in select_winner_evaluators(target, RunFolder(tmp_path))] == suit
    target.evaluators = evaluators[:1]
    assert [e.id for e in select_winner_evaluators(target, RunFolder(tmp_path))] == ["loss"]


def test_mistakes(ready: Tunesmith, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, message in (
        (["done", "--data", "nothing.tsv"], "does not exist"),
        (["done", "--out", "full"], "is not empty"),
        (["done", "--winner", "--base-only"], "cannot be combined"),
        (["done", "--winner"], "winner"),
        (["fake:one", "--winner"], "needs a run folder"),
        (["fake:one"], "--data"),
        (["done", "--evaluator", "nothing"], "nothing"),
    ):
        done = ready("evaluate", *arguments)
        assert done.exit_code == 2 and message in done.stderr, done.output


def test_an_adapter_needs_a_base_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("{}")
    choice = TargetChoice(str(tmp_path), tmp_path / "rows.jsonl", "tuned", None, (), (), (), ())
    with pytest.raises(UsageError, match="this file does not specify a base model"):
        open_evaluation_target(choice)
