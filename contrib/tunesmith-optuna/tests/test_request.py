"""Refusals before any training, the data of trials, and the run file of the best one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunesmith import api
from tunesmith.errors import ConfigError, DataError, UsageError
from tunesmith.execution.run_data import load_data
from tunesmith_cli.app import app
from tunesmith_cli.common import CliState
from tunesmith_optuna import PLUGIN
from tunesmith_optuna.command import command
from tunesmith_optuna.launchers import ClusterLauncher
from tunesmith_optuna.request import PLAN, open_study, read_request
from tunesmith_optuna.trial_run import find_objective, find_options, write_best
from tunesmith_optuna.validation_part import ValidationPart, ValidationPartOptions


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


def refuse(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code not in (0, 1), result.output
    return result.output  # click 8.1 has no stderr of its own


def test_the_offer_loads_the_command() -> None:
    (offer,) = PLUGIN.tunesmith_commands()
    assert offer.load() is command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search", "technique.epoch=1,2"], "tune.search.technique.epoch: unknown key"),
        (["--search", "technique.epochs=0,1"], "tune.search.technique.epochs: should be greater"),
        (["--search", "technique.epochs=1.5:2.5"], "tune.search.technique.epochs: should be a"),
        (["--search", "technique.epochs"], "--search technique.epochs: expected KEY=LOW:HIGH"),
        (["--search", "run.seed=1,2"], "run.seed: only options of the technique"),
        (["--pruner", "best"], "tune.pruner: should be 'median', 'hyperband' or 'none'"),
        (["--trials", "0"], "tune.trials: should be greater than or equal to 1"),
        (["--metric", "exact-mach"], 'did you mean "exact-match"?'),
        (["--on", "nowhere"], "tune.on: no installed plugin offers the launcher `nowhere`"),
        (["--set", "technique.epochs=0"], "technique.epochs: should be greater"),
        (["--set", "data.train=nothing.jsonl"], "nothing.jsonl"),
    ],
)
def test_a_wrong_search_is_refused_and_nothing_is_written(
    run_file: Path, arguments: list[str], message: str
) -> None:
    before = sorted(run_file.parent.rglob("*"))
    assert message in refuse(run_file, *arguments)
    assert sorted(run_file.parent.rglob("*")) == before


def test_a_search_needs_options_to_search(run_file: Path) -> None:
    text = run_file.read_text().partition("[tune.search]")[0]
    run_file.write_text(text)
    printed = refuse(run_file)
    assert (
        "tune.search: the run file does not state which options to search" in printed
        and "--search " in printed
    )


def test_a_dry_run_prints_the_space(run_file: Path) -> None:
    before = sorted(run_file.parent.rglob("*"))
    result = call(run_file, "--dry-run", "--search", "technique.epochs=1,5", "--trials", "3")
    assert result.exit_code == 0, result.output
    assert "technique.epochs       1, 5\n" in result.stdout
    assert "technique.batch_size   2 to 4\n" in result.stdout
    assert "3 trials out of 6 combinations" in result.stdout
    assert "objective: lowest loss" in result.stdout
    assert sorted(run_file.parent.rglob("*")) == before


def test_the_table_changes_nothing_else_of_a_run(run_file: Path) -> None:
    plan, _ = api.load_plan(run_file)
    run_file.write_text(run_file.read_text().partition("[tune.search]")[0])
    without, _ = api.load_plan(run_file)
    tables, others = plan.to_json(), without.to_json()
    assert tables.pop("tune") != others.pop("tune") and tables == others


def test_trials_never_see_a_test_row(run_file: Path, tmp_path: Path) -> None:
    request = read_request(CliState(), run_file, (), (), {})
    folder = request.create_folder(tmp_path / "study")
    plan = request.runs(folder).make_plan(7, {"technique.epochs": 3})
    dataset, parts = load_data(plan)
    _, whole = load_data(api.load_plan(run_file)[0])
    assert len(whole.test) == 26 and len(whole.validation) == 20
    hidden = set(whole.test)
    for records in (parts.train, parts.validation, parts.test, dataset.train, dataset.test or ()):
        assert records and hidden.isdisjoint(records)
    assert list(parts.train) == list(whole.train) and list(parts.test) == list(whole.validation)
    assert plan.baseline_options.use == [] and not plan.gate.at_least and plan.name == "trial-007"
    assert [evaluator.id for evaluator in plan.evaluators] == ["loss"]


def test_few_rows_get_validation_rows_and_the_best_run_file_has_them_too(
    run_file: Path, tmp_path: Path
) -> None:
    rows = run_file.parent / "rows.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:60]))
    request = read_request(CliState(), run_file, (), (), {})
    _, parts = load_data(request.plan)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (38, 10, 12)
    folder = request.create_folder(tmp_path / "study")
    again = open_study(folder, {})
    for plan in (request.plan, again.plan):
        path = tmp_path / "best.toml"
        write_best(plan, {"technique.epochs": 3}, path, "the best one")
        _, best = load_data(api.load_plan(path)[0])
        assert list(best.test) == list(parts.test) and list(best.validation) == list(
            parts.validation
        )


def test_without_validation_rows_there_is_nothing_to_choose_by(run_file: Path) -> None:
    with pytest.raises(DataError, match="has no validation rows") as caught:
        read_request(CliState(), run_file, ("split.validation_size=0",), (), {})
    assert "split.validation_size" in str(caught.value.hint)


def test_the_best_run_file_is_the_users_with_other_options(run_file: Path, tmp_path: Path) -> None:
    request = read_request(CliState(), run_file, ("data.test_size=30",), (), {"trials": 3})
    folder = request.create_folder(tmp_path / "study")
    again = open_study(folder, {"trials": 9})
    assert again.options.trials == 9 and again.options.search == request.options.search
    assert again.options.space == request.options.space
    path = tmp_path / "best.toml"
    for plan in (request.plan, again.plan):
        write_best(plan, {"technique.epochs": 3, "technique.batch_size": 2}, path, "Best: x.")
        tables = tomllib.loads(path.read_text())
        assert tables["technique"] == {"use": "ngram", "epochs": 3, "batch_size": 2}
        assert tables["data"]["test_size"] == 30
        assert tables["run"] == {"name": "run", "folder": str(run_file.parent / "runs")}
        assert tables["evaluators"] == [
            {"use": "exact-match", "id": "lenient", "ignore_case": True}
        ]
        assert tables["gate"] == {"at_least": {"lenient": {"exact-match": 1.0}}}
        assert tables.keys() == {
            "run", "model", "data", "technique", "evaluators", "gate", "plugins",
        }  # fmt: skip
    best, _ = api.load_plan(path)
    assert best.data.to_json() == request.plan.data.to_json()
    assert find_options(best, ["technique.epochs", "technique.none"]) == {
        "technique.epochs": 3,
        "technique.none": None,
    }


@pytest.mark.parametrize(
    ("name", "evaluator", "direction"),
    [
        ("loss", {"use": "loss"}, "minimize"),
        ("exact-match", {"use": "exact-match", "id": "lenient", "ignore_case": True}, "maximize"),
        ("lenient.exact-match", {"use": "exact-match", "id": "lenient"}, "maximize"),
    ],
)
def test_the_metric_is_that_of_the_run_files_evaluator_or_of_an_installed_one(
    run_file: Path, name: str, evaluator: dict[str, object], direction: str
) -> None:
    found = find_objective(*api.load_plan(run_file), name)
    assert found.direction == direction and evaluator.items() <= found.evaluator.items()


def test_an_unknown_id_of_an_evaluator_is_refused(run_file: Path) -> None:
    with pytest.raises(UsageError, match=r"strict\.exact-match"):
        find_objective(*api.load_plan(run_file), "strict.exact-match")


def test_a_metric_of_several_evaluators_needs_the_id_of_one(run_file: Path) -> None:
    second = '[[evaluators]]\nuse = "exact-match"\nid = "strict"\n\n[gate]'
    run_file.write_text(run_file.read_text("utf-8").replace("[gate]", second), encoding="utf-8")
    plan, catalog = api.load_plan(run_file)
    with pytest.raises(
        UsageError, match=r"tune\.metric: 2 evaluators measure `exact-match`"
    ) as caught:
        find_objective(plan, catalog, "exact-match")
    assert caught.value.hint == "choose one of: lenient.exact-match, strict.exact-match"
    assert find_objective(plan, catalog, "strict.exact-match").id == "strict"


def test_a_study_keeps_its_space_and_run_file(run_file: Path, tmp_path: Path) -> None:
    folder = read_request(CliState(), run_file, (), (), {}).create_folder(tmp_path / "study")
    for words in (["--seed", "3"], ["--set", "run.seed=3"], ["--search", "technique.epochs=1,2"]):
        assert "of an existing search cannot be changed" in refuse(folder, *words)
    (folder / PLAN).unlink()
    assert "not a search folder" in refuse(folder)


def test_the_data_of_a_trial_needs_the_run_file_of_its_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run file"):
        ValidationPart(ValidationPartOptions(plan=str(tmp_path / "plan.toml"))).load()


def test_code_that_a_study_names_is_executed_only_if_it_is_trusted(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder of somebody else must not execute a plugin through its data."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(UsageError, match="refers to code that this user has not run before"):
        ValidationPart(ValidationPartOptions(plan=str(run_file))).load()


def test_every_problem_of_the_space_is_named_at_once(run_file: Path) -> None:
    searches = ["technique.epochs=0,1", "technique.batch_size=0:4"]
    request = read_request(CliState(), run_file, (), searches, {})
    with pytest.raises(ConfigError) as caught:
        request.check_space(None)
    assert {problem.where for problem in caught.value.problems} == {
        "tune.search.technique.epochs",
        "tune.search.technique.batch_size",
    }


def test_a_launcher_is_a_group_of_commands_of_a_plugin(run_file: Path) -> None:
    _, catalog = api.load_plan(run_file)
    with pytest.raises(UsageError, match="no installed plugin offers the launcher `data`"):
        ClusterLauncher.find("data", catalog)
