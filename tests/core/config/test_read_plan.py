"""From a run file to a plan: everything wrong at once, nothing heavy, and again the same plan."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
from bench import RIGHT, Bench, catalog_of, offering, plugin
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tunesmith.config import read_plan as planning
from tunesmith.config import run_file
from tunesmith.errors import (
    ConfigError,
    EnvironmentProblem,
    IntegrityError,
    PluginError,
    TunesmithError,
    UsageError,
)
from tunesmith.offers import TechniqueOffer
from tunesmith.options import Options
from tunesmith.records import Completion


def problems(bench: Bench, **changes: object) -> dict[str, str]:
    """What is wrong with a run file, by place."""
    with pytest.raises(ConfigError) as caught:
        bench.plan(**changes)
    return {p.where: f"{p.what} {p.hint or ''}".strip() for p in caught.value.problems}


def test_all_problems_are_told_together_each_with_its_place(bench: Bench) -> None:
    found = problems(
        bench,
        run={"seed": -1, "naem": "x"},
        model={"base": "nowhere"},
        data={"use": "row"},
        technique={"epocs": 3, "batch_size": "many"},
        tecnique={},
        gate={"at_least": {"right": "high"}},
    )
    assert list(found) == [
        "tecnique",
        "run.seed",
        "run.naem",
        "gate.at_least.right",
        "data.use",
        "technique.batch_size",
        "technique.epocs",
        "model.base",
    ]
    assert found["tecnique"] == "unknown table did you mean [technique]?"
    assert found["run.naem"] == 'unknown key did you mean "name"?'
    assert found["technique.epocs"] == 'unknown key did you mean "epochs"?'
    assert found["data.use"] == 'no data loader "row" is installed did you mean "rows"?'
    assert "got 'many'" in found["technique.batch_size"]
    assert "nowhere" in found["model.base"]


@pytest.mark.parametrize("table", ["model", "data", "technique"])
def test_a_missing_table_is_a_problem(bench: Bench, table: str) -> None:
    (where, what), *_ = problems(bench, **{table: None}).items()
    assert where.startswith(table)
    assert "must" in what


def test_a_missing_use_names_what_is_installed(bench: Bench) -> None:
    tables = bench.tables()
    del tables["technique"]["use"]
    read = run_file.RunFile(tables=tables, folder=bench.place, stem="x")
    with pytest.raises(ConfigError, match=r"technique.use: must name a technique \(echo\)"):
        planning.make(read, bench.catalog)


@pytest.mark.parametrize(
    ("table", "value", "where"),
    [
        ("technique", {"epochs": True}, "technique.epochs"),
        ("technique", {"epochs": "3"}, "technique.epochs"),
        ("technique", {"epochs": 2.5}, "technique.epochs"),
        ("run", {"seed": "42"}, "run.seed"),
        ("run", {"device": "gpu"}, "run.device"),
        ("data", {"file": 5}, "data.file"),
        ("run", 7, "run"),
        ("technique", "echo", "technique.use"),
        ("evaluators", {"use": "right"}, "evaluators"),
        ("evaluators", [{"use": "write"}], "evaluators.0.use"),
        ("reporters", [{"use": "ledger"}, {"use": "ledger", "raises": 1}], "reporters.1.raises"),
        ("plugins", {"require": ["tunesmith-nobody>=1"]}, "plugins.require"),
    ],
)
def test_wrong_types_and_values_name_their_place(
    bench: Bench, table: str, value: object, where: str
) -> None:
    if table == "technique" and isinstance(value, str):
        tables = {**bench.tables(), "technique": value}
        with pytest.raises(ConfigError) as caught:
            planning.make(
                run_file.RunFile(tables=tables, folder=bench.place, stem="x"), bench.catalog
            )
        assert where in [p.where for p in caught.value.problems]
    else:
        assert list(problems(bench, **{table: value})) == [where]


@pytest.mark.parametrize("holdout", [0, 1.0, -0.2, "half", 0.0])
def test_errors_of_unions_read_as_one_problem(bench: Bench, holdout: object) -> None:
    found = problems(bench, data={"holdout": holdout})
    assert list(found) == ["data.holdout"]
    assert "constrained" not in found["data.holdout"]


def test_relative_paths_start_at_the_run_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    plan = bench.plan(plugins={"files": []})
    assert plan.to_json()["data"]["file"] == str(bench.place / "rows.jsonl")
    assert plan.model.base == str(bench.place / "base")
    assert plan.run.folder == str(bench.place / "runs")


def test_an_absolute_path_stays(bench: Bench) -> None:
    assert bench.plan(data={"file": "/x/y.jsonl"}).to_json()["data"]["file"] == "/x/y.jsonl"


def test_defaults_are_filled_in_and_the_name_is_the_files(bench: Bench) -> None:
    plan = bench.plan()
    shown = plan.to_json()
    assert shown["technique"] == {
        "use": "echo", "epochs": 3, "batch_size": 4, "save_every": 4, "pause": 0.0,
    }  # fmt: skip
    assert plan.name == "run"
    assert [r.offer.name for r in plan.reporters] == ["ledger"]
    assert plan.evaluators == ()
    assert bench.plan(reporters=[]).reporters == ()


class ShapesOptions(Options):
    """Types that TOML does not know."""

    pair: tuple[float, float] = Field((0.9, 0.999), description="Two numbers.")
    names: frozenset[str] = Field(frozenset({"a"}), description="Some names.")
    maybe: int | None = Field(None, description="A number, or unset.")


SHAPES = TechniqueOffer(
    name="shapes",
    summary="options of every shape",
    config=ShapesOptions,
    build=lambda options: None,
    accepts=frozenset({Completion}),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"run": {"name": "n", "seed": 7, "max_minutes": 1.5}},
        {"data": {"holdout": 7}},
        {"data": {"holdout": 0.25}},
        {"evaluators": [{"use": "right", "limit": 3}], "reporters": []},
        {"gate": {"must_beat": ["base"], "at_least": {"right": 0.5}}},
        {"baselines": {"shots": 0, "zero_shot": False, "system_prompt": 'say "ü"\n\\x'}},
    ],
)
def test_the_stored_plan_makes_an_equal_plan_anywhere(bench: Bench, changes: dict) -> None:
    plan = bench.plan(**changes)
    again = _replan(bench, plan)
    assert again.to_json() == plan.to_json()
    assert again.to_toml() == plan.to_toml()


def test_options_that_toml_has_no_type_for_survive(bench: Bench) -> None:
    bench.catalog = catalog_of(shapes=offering("techniques", SHAPES))
    plan = bench.plan(technique={"use": "shapes", "pair": [0.5, 0.75]})
    assert plan.technique.config == ShapesOptions(pair=(0.5, 0.75))
    assert _replan(bench, plan).technique.config == plan.technique.config


def test_the_name_that_the_run_file_uses_is_kept(bench: Bench) -> None:
    bench.catalog = catalog_of(rival=offering("evaluators", replace(RIGHT, summary="another")))
    found = problems(bench, evaluators=[{"use": "right"}])
    assert 'write "file:bench:right" or "file:rival:right"' in found["evaluators.0.use"]
    plan = bench.plan(evaluators=[{"use": "file:rival:right"}])
    assert plan.to_json()["evaluators"][0]["use"] == "file:rival:right"
    assert _replan(bench, plan).evaluators[0].offer.summary == "another"


def _replan(bench: Bench, plan: planning.Plan) -> planning.Plan:
    elsewhere = bench.place / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    tables = tomllib.loads(plan.to_toml())
    return planning.make(
        run_file.RunFile(tables=tables, folder=elsewhere, stem="other"), bench.catalog
    )


def test_every_key_has_an_origin(bench: Bench) -> None:
    assert bench.plan().origins["technique.epochs"] == "run.toml"


def test_a_lacking_library_is_named_with_its_version(bench: Bench) -> None:
    needy = replace(SHAPES, needs=("pluggy>=999", "nobody-has-this"))
    bench.catalog = catalog_of(shapes=offering("techniques", needy))
    with pytest.raises(EnvironmentProblem, match=r"pluggy>=999 is needed.*nobody-has-this is not"):
        bench.plan(technique={"use": "shapes"})


@pytest.mark.parametrize(
    "error", [EnvironmentProblem("no network"), UsageError("no such folder"), IntegrityError("cut")]
)
def test_what_a_plugin_says_about_the_model_is_one_problem_among_others(
    bench: Bench, error: TunesmithError
) -> None:
    def find_model(reference: str) -> None:
        raise error

    bench.catalog = catalog_of(finder=plugin(find_model=find_model))
    found = problems(bench, technique={"use": "ecko"}, model={"base": "x"})
    assert found["model.base"] == error.message and "technique.use" in found
    with pytest.raises(ConfigError if isinstance(error, UsageError) else type(error)) as caught:
        bench.plan(model={"base": "x"})
    assert error.message in caught.value.message


def test_a_broken_plugin_is_an_error_only_where_it_is_needed(bench: Bench) -> None:
    def fail() -> list[object]:
        raise RuntimeError("no luck today")

    bench.catalog = catalog_of(luckless=plugin(techniques=fail))
    assert bench.plan().technique.offer.name == "echo"
    with pytest.raises(PluginError, match=r'"file:luckless".*RuntimeError: no luck today'):
        bench.plan(technique={"use": "luckless"})


CATALOG = catalog_of()


@given(
    tables=st.dictionaries(
        st.sampled_from([*planning.TABLES, "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["use", "base", "seed", "epochs", "holdout", "x"]), inner
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_no_run_file_breaks_the_reader(
    tables: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    read = run_file.RunFile(tables=tables, folder=tmp_path_factory.getbasetemp(), stem="x")
    with pytest.raises(ConfigError) as caught:
        planning.make(read, CATALOG)
    assert caught.value.problems
