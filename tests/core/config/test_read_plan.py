"""From a run file to a plan: all problems together, and a stored plan gives the same plan again."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bench import RECORDER, RIGHT, ROWS, ZERO_SHOT, Bench, catalog_of, offering, plugin
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from word_encoder import WORDS

from tunesmith.additions import Addition
from tunesmith.catalog import Catalog
from tunesmith.config import run_file
from tunesmith.config.read_plan import CORE_TABLES, list_requirements, make_plan
from tunesmith.errors import (
    ConfigError,
    EnvironmentProblem,
    IntegrityError,
    PluginError,
    Problem,
    TunesmithError,
    UsageError,
)
from tunesmith.execution.run_events import list_used_plugins
from tunesmith.offers import (
    RUN_FILE_TABLES,
    DataLoaderOffer,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.options import DataPath, Options, earlier_keys, fields_by_key
from tunesmith.plan import Plan
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Completion
from tunesmith_plugins.techniques.full.options import FullOptions


def problems(bench: Bench, **changes: object) -> dict[str, str]:
    """Return the problems of a run file, by key."""
    with pytest.raises(ConfigError) as caught:
        bench.plan(**changes)
    return {p.where: f"{p.what} {p.hint or ''}".strip() for p in caught.value.problems}


def test_all_problems_are_reported_together_with_their_keys(bench: Bench) -> None:
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
    assert "required" in what or "must name" in what


def test_a_missing_use_lists_the_installed_offers(bench: Bench) -> None:
    tables = bench.tables()
    del tables["technique"]["use"]
    read = run_file.RunFile(tables=tables, folder=bench.root, stem="x")
    with pytest.raises(
        ConfigError, match=r"technique.use: must name an installed technique \(installed: echo\)"
    ):
        make_plan(read, bench.catalog)


class FilesOptions(Options):
    """Options of a loader that is recognized by its files."""

    train: DataPath | list[str] = Field(description="Files.")


@pytest.mark.parametrize("train", ["rows.files", ["rows.files", "*.files"], "SELECT " + "x" * 300])
def test_the_data_loader_follows_from_the_files(bench: Bench, train: Any) -> None:
    (bench.root / "rows.files").write_text("")
    offer = DataLoaderOffer(
        name="files",
        summary="files",
        config=FilesOptions,
        build=bench.plan().data.offer.build,
        recognizes=lambda name: name.endswith(".files") or name.startswith("SELECT"),
    )
    catalog = catalog_of(files=offering("data_loaders", offer))
    tables = {**bench.tables(), "data": {"train": train, "test_size": 0.5}}
    plan = make_plan(run_file.RunFile(tables=tables, folder=bench.root, stem="x"), catalog)
    assert (plan.data.use, plan.origins["data.use"]) == ("files", "data.train")
    assert plan.to_json()["data"]["use"] == "files" and plan.test_size == 0.5
    tables["data"] = {"train": "rows.unknown"}
    what = r"data.use: must name an installed data loader \(installed: files, rows\)"
    with pytest.raises(ConfigError, match=what):
        make_plan(run_file.RunFile(tables=tables, folder=bench.root, stem="x"), catalog)


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
        (
            "reporters",
            [{"use": "recorder"}, {"use": "recorder", "raises": 1}],
            "reporters.1.raises",
        ),
        ("plugins", {"require": ["tunesmith-unknown>=1"]}, "plugins.require"),
    ],
)
def test_wrong_types_and_values_name_their_key(
    bench: Bench, table: str, value: object, where: str
) -> None:
    if table == "technique" and isinstance(value, str):
        tables = {**bench.tables(), "technique": value}
        with pytest.raises(ConfigError) as caught:
            make_plan(run_file.RunFile(tables=tables, folder=bench.root, stem="x"), bench.catalog)
        assert where in [p.where for p in caught.value.problems]
    else:
        assert list(problems(bench, **{table: value})) == [where]


@pytest.mark.parametrize("test_size", [0, 1.0, -0.2, "half", 0.0])
def test_errors_of_unions_are_one_problem(bench: Bench, test_size: object) -> None:
    found = problems(bench, data={"test_size": test_size})
    assert list(found) == ["data.test_size"]
    assert "constrained" not in found["data.test_size"]


def test_relative_paths_start_at_the_run_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    plan = bench.plan(plugins={"files": []})
    assert plan.to_json()["data"]["file"] == str(bench.root / "rows.jsonl")
    assert plan.model.base == str(bench.root / "base")
    assert plan.run.folder == str(bench.root / "runs")


def test_an_absolute_path_is_unchanged(bench: Bench) -> None:
    assert bench.plan(data={"file": "/x/y.jsonl"}).to_json()["data"]["file"] == "/x/y.jsonl"


def test_defaults_are_filled_in_and_the_run_is_named_after_its_file(bench: Bench) -> None:
    plan = bench.plan()
    assert plan.to_json()["technique"] == {
        "use": "echo", "epochs": 3, "batch_size": 4, "save_every": 4, "pause": 0.0,
    }  # fmt: skip
    assert plan.name == "run"
    assert [r.offer.name for r in plan.reporters] == ["recorder"]
    assert plan.evaluators == ()
    assert bench.plan(reporters=[]).reporters == ()


class ShapesOptions(Options):
    """Options with types that TOML does not have."""

    pair: tuple[float, float] = Field((0.9, 0.999), description="Two numbers.")
    names: frozenset[str] = Field(frozenset({"a"}), description="Some names.")
    maybe: int | None = Field(None, description="A number, or unset.")


SHAPES = TechniqueOffer(
    name="shapes",
    summary="options of many types",
    config=ShapesOptions,
    build=lambda options: None,
    accepts=frozenset({Completion}),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"run": {"name": "n", "seed": 7, "max_minutes": 1.5}},
        {"data": {"test_size": 7}},
        {"data": {"test_size": 0.25}},
        {"evaluators": [{"use": "right", "limit": 3}], "reporters": []},
        {"evaluators": [{"use": "right"}, {"use": "right"}, {"use": "right", "id": "a"}]},
        {"gate": {"must_beat": ["zero-shot"], "at_least": {"right": 0.5}}},
        {"baselines": {"use": [], "system_prompt": 'say "ü"\n\\x'}},
    ],
)
def test_the_stored_plan_gives_an_equal_plan_in_any_folder(bench: Bench, changes: dict) -> None:
    plan = bench.plan(**changes)
    stored = _plan_from_toml(bench, plan)
    assert stored.to_json() == plan.to_json()
    assert stored.to_toml() == plan.to_toml()


def test_options_without_a_toml_type_round_trip(bench: Bench) -> None:
    bench.catalog = catalog_of(shapes=offering("techniques", SHAPES))
    plan = bench.plan(technique={"use": "shapes", "pair": [0.5, 0.75]})
    assert plan.technique.config == ShapesOptions(pair=(0.5, 0.75))
    assert _plan_from_toml(bench, plan).technique.config == plan.technique.config


def test_the_plan_keeps_the_name_in_the_run_file(bench: Bench) -> None:
    bench.catalog = catalog_of(other=offering("evaluators", replace(RIGHT, summary="another")))
    found = problems(bench, evaluators=[{"use": "right"}])
    assert 'write "file:bench:right" or "file:other:right"' in found["evaluators.0.use"]
    plan = bench.plan(evaluators=[{"use": "file:other:right"}])
    assert plan.to_json()["evaluators"][0]["use"] == "file:other:right"
    assert _plan_from_toml(bench, plan).evaluators[0].offer.summary == "another"


# --------------------------------------------------------------------------- tables of plugins


class ColorOptions(Options):
    """Options of a table."""

    EARLIER: ClassVar[Mapping[str, str]] = {"tint": "hue"}

    hue: int = Field(7, ge=0, description="The hue.")
    palette: DataPath | None = Field(None, description="A file with colors.")


COLOR = TableOffer(name="color", summary="colors", config=ColorOptions)


@pytest.fixture
def colored(bench: Bench) -> Bench:
    """A bench with a plugin that owns a table."""
    bench.catalog = catalog_of(colors=offering("tables", COLOR))
    return bench


def test_a_table_of_a_plugin_is_part_of_the_plan(colored: Bench) -> None:
    plan = colored.plan(color={"hue": 3, "palette": "warm.txt"})
    expected = ColorOptions(hue=3, palette=str(colored.root / "warm.txt"))
    assert plan.table(ColorOptions) == expected
    assert plan.to_json()["color"] == expected.model_dump()
    stored = _plan_from_toml(colored, plan)
    assert stored.table(ColorOptions) == expected and stored.to_toml() == plan.to_toml()
    assert plan.origins["color.hue"] == "run.toml"


def test_a_table_that_the_run_file_lacks_has_its_defaults(colored: Bench) -> None:
    plan = colored.plan()
    assert plan.to_json()["color"] == {"hue": 7, "palette": None}
    assert plan.table(ColorOptions) == ColorOptions()
    assert tomllib.loads(colored.plan(color={"hue": 8}).to_toml())["color"] == {"hue": 8}


def test_a_table_with_only_default_values_is_not_stored(colored: Bench) -> None:
    """So the stored plan can be read without the plugin."""
    plan = colored.plan(color={"hue": 7})
    assert plan.to_json()["color"] == {"hue": 7, "palette": None} and "color" not in plan.to_toml()
    colored.catalog = catalog_of()
    assert _plan_from_toml(colored, plan).table(ColorOptions) == ColorOptions()


def test_problems_of_a_plugins_table_are_reported_with_the_others(colored: Bench) -> None:
    found = problems(colored, color={"hue": -1, "palete": "x", "tint": 3}, colour={}, gate=3)
    assert list(found) == ["colour", "color.hue", "color.palete", "color.tint", "gate"]
    assert found["colour"] == "unknown table did you mean [color]?"
    assert found["color.palete"] == 'unknown key did you mean "palette"?'
    assert found["color.tint"] == 'was renamed to "hue"'
    assert "must be a table" in problems(colored, color=3)["color"]


def test_a_table_of_a_blocked_plugin_names_the_plugin(bench: Bench) -> None:
    selection = Selection(allowed=frozenset(), disabled=frozenset({"estimate"}))
    bench.catalog = Catalog(find_plugins(selection))
    found = problems(bench, estimate={"prices": "p.toml"})["estimate"]
    assert found.startswith('unknown table the plugin "tunesmith:estimate" is blocked: disabled by')


def test_a_table_of_two_plugins_has_the_full_name(bench: Bench) -> None:
    other = offering("tables", replace(COLOR, summary="others"))
    bench.catalog = catalog_of(colors=offering("tables", COLOR), other=other)
    assert "unknown table" in problems(bench, color={"hue": 3})["color"]
    plan = bench.plan(**{"file:other:color": {"hue": 3}})
    stored = plan.to_json()
    assert stored["file:other:color"]["hue"] == 3 and stored["file:colors:color"]["hue"] == 7
    assert _plan_from_toml(bench, plan).to_json() == stored


@pytest.mark.parametrize("name", RUN_FILE_TABLES)
def test_a_table_of_the_core_cannot_be_offered(bench: Bench, name: str) -> None:
    bench.catalog = catalog_of(odd=offering("tables", replace(COLOR, name=name)))
    assert bench.plan().tables == ()
    (broken,) = bench.catalog.plugins.broken()
    assert f'offers the table "{name}", but that name is reserved' in broken.reason


def test_the_names_of_the_cores_tables() -> None:
    chosen = {"data", "split", "technique", "encoder", "evaluators", "reporters"}
    assert {*CORE_TABLES, *chosen} == set(RUN_FILE_TABLES)


# --------------------------------------------------------------------------- reporters of every run


ALWAYS = replace(RECORDER, name="always", by_default=False, always=True)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["recorder", "always"]),
        ({"reporters": []}, ["always"]),
        ({"reporters": [{"use": "recorder"}]}, ["recorder", "always"]),
        ({"reporters": [{"use": "always", "raises": True}]}, ["always"]),
        ({"reporters": [{"use": "file:every:always"}]}, ["always"]),
    ],
)
def test_a_reporter_of_every_run_is_used_beside_others(
    bench: Bench, changes: dict[str, Any], names: list[str]
) -> None:
    bench.catalog = catalog_of(every=offering("reporters", ALWAYS))
    plan = bench.plan(**changes)
    assert [r.offer.name for r in plan.reporters] == names
    stored = _plan_from_toml(bench, plan)
    assert [r.offer.name for r in stored.reporters] == names


def test_a_reporter_writes_to_a_file_of_its_own(bench: Bench) -> None:
    class PageOptions(Options):
        path: str = Field("page", description="The page.")

    page = replace(RECORDER, name="page", config=PageOptions, by_default=False)
    bench.catalog = catalog_of(pages=offering("reporters", page))
    (bench.root / "pages").mkdir()
    paths = [None, "page", "x/../page", "other", "-", "-", "events.jsonl", "./Artifact/page"]
    paths += [str(bench.root / "pages"), str(bench.root / "rows.jsonl")]
    tables = [{"use": "page", **({"path": path} if path else {})} for path in paths]
    of_the_run = "a reporter must not write to a file or folder of the run, got"
    assert problems(bench, reporters=tables) == {
        "reporters.1.path": "reporters.0 already writes to this file, got 'page'",
        "reporters.2.path": "reporters.0 already writes to this file, got 'x/../page'",
        "reporters.6.path": f"{of_the_run} 'events.jsonl'",
        "reporters.7.path": f"{of_the_run} './Artifact/page'",
        "reporters.8.path": f"must be a file, not a folder, got {paths[8]!r}",
        "reporters.9.path": f"the run reads this file, got {paths[9]!r}",
    }
    assert len(bench.plan(reporters=[tables[0], {"use": "page", "path": "b"}]).reporters) == 2
    to_stdout = {"use": "page", "path": "-"}
    assert len(bench.plan(reporters=[to_stdout, to_stdout]).reporters) == 2


def test_a_reporter_of_every_run_is_stored_only_if_it_is_named(bench: Bench) -> None:
    """So the stored plan can be read without the plugin."""
    bench.catalog = catalog_of(every=offering("reporters", ALWAYS))
    assert [r["use"] for r in bench.plan().to_json()["reporters"]] == ["recorder"]
    named = bench.plan(reporters=[{"use": "always"}])
    assert [r["use"] for r in named.to_json()["reporters"]] == ["always"]


def _plan_from_toml(bench: Bench, plan: Plan) -> Plan:
    elsewhere = bench.root / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    tables = tomllib.loads(plan.to_toml())
    return make_plan(run_file.RunFile(tables=tables, folder=elsewhere, stem="other"), bench.catalog)


def test_every_key_has_an_origin(bench: Bench) -> None:
    assert bench.plan().origins["technique.epochs"] == "run.toml"


def test_a_missing_library_is_named_with_its_version(bench: Bench) -> None:
    offer = replace(SHAPES, needs=("pluggy>=999", "no-such-package"))
    bench.catalog = catalog_of(shapes=offering("techniques", offer))
    with pytest.raises(EnvironmentProblem, match=r"pluggy>=999 is needed.*no-such-package is not"):
        bench.plan(technique={"use": "shapes"})


def test_a_plan_that_is_only_checked_needs_the_libraries_of_its_data_loader(bench: Bench) -> None:
    technique = offering("techniques", replace(SHAPES, needs=("no-such-package",)))
    bench.catalog = catalog_of(shapes=technique)
    read = bench.read(technique={"use": "shapes"})
    plan = make_plan(read, bench.catalog, runnable=False)
    assert list_requirements(plan, bench.catalog)["technique shapes"] == ("no-such-package",)
    rows = offering("data_loaders", replace(ROWS, name="other", needs=("nothing-like-it",)))
    bench.catalog = catalog_of(shapes=technique, rows=rows)
    read = bench.read(data={"use": "other", "file": "rows.jsonl"}, technique={"use": "shapes"})
    with pytest.raises(EnvironmentProblem, match=r"^nothing-like-it is not installed$"):
        make_plan(read, bench.catalog, runnable=False)


@pytest.mark.parametrize(
    "error", [EnvironmentProblem("no network"), UsageError("no such folder"), IntegrityError("cut")]
)
def test_an_error_about_the_model_is_reported_with_other_problems(
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
        raise RuntimeError("a bug in the hook")

    bench.catalog = catalog_of(failing=plugin(techniques=fail))
    assert bench.plan().technique.offer.name == "echo"
    with pytest.raises(PluginError, match=r'"file:failing".*RuntimeError: a bug in the hook'):
        bench.plan(technique={"use": "failing"})


CATALOG = catalog_of()


@given(
    tables=st.dictionaries(
        st.sampled_from([*RUN_FILE_TABLES, "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["use", "base", "seed", "epochs", "test_size", "x"]), inner
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_any_tables_give_a_config_error(
    tables: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    read = run_file.RunFile(tables=tables, folder=tmp_path_factory.getbasetemp(), stem="x")
    with pytest.raises(ConfigError) as caught:
        make_plan(read, CATALOG)
    assert caught.value.problems


# --------------------------------------------------------------------------- unknown keys


def _key_problem(table: str, use: str, key: str) -> Problem:
    """Return the problem of a run file with one key."""
    tables: dict[str, Any] = {
        "model": {"base": "no such model"},
        "data": {"use": "jsonl", "train": "rows.jsonl"},
        "technique": {"use": "full"},
    }
    name, *nested = table.split(".")
    values: Any = {key: 1}
    for part in reversed([part for part in nested if not part.isdigit()]):
        values = {part: values}
    if use:
        values = {"use": use, **values}
    tables[name] = [values] if name in ("evaluators", "reporters") else values
    read = run_file.RunFile(tables=tables, folder=Path("/"), stem="x")
    with pytest.raises(ConfigError) as caught:
        make_plan(read, _built_ins())
    (problem,) = (p for p in caught.value.problems if p.where == f"{table}.{key}")
    return problem


@cache
def _built_ins() -> Catalog:
    return Catalog(find_plugins(Selection(allowed=frozenset())))


def test_a_nested_unknown_key_suggests_a_key_of_its_table() -> None:
    problem = _key_problem("technique.policy.generation", "rlhf", "num_generation")
    assert str(problem) == (
        'technique.policy.generation.num_generation: unknown key (did you mean "num_generations"?)'
    )


def _problems(technique: dict[str, Any]) -> set[str]:
    tables = {
        "model": {"base": "no such model"},
        "data": {"use": "jsonl", "train": "rows.jsonl"},
        "technique": technique,
    }
    with pytest.raises(ConfigError) as caught:
        make_plan(run_file.RunFile(tables=tables, folder=Path("/"), stem="x"), _built_ins())
    problems = map(str, caught.value.problems)
    return {problem for problem in problems if problem.startswith("technique")}


@pytest.mark.parametrize(
    ("technique", "problem"),
    [
        (
            {"use": "lora", "adapter": {"rnak": 8}},
            'technique.adapter.rnak: unknown key (did you mean "rank"?)',
        ),
        (
            {"use": "lora", "rnk": 8},
            'technique.rnk: unknown key (did you mean "adapter.rank"?)',
        ),
        (
            {"use": "rlhf", "policy": {"optimizer": {"bettas": []}}},
            'technique.policy.optimizer.bettas: unknown key (did you mean "betas"?)',
        ),
        (
            {"use": "full", "adapter": {"rank": 8}},
            f"technique.adapter: unknown key (keys: {', '.join(fields_by_key(FullOptions))})",
        ),
        (
            {"use": "lora", "adapter": 8},
            "technique.adapter: must be a table, got 8 (write adapter.rank = ...)",
        ),
        (
            {"use": "lora", "adapter": [{"rank": 8}]},
            "technique.adapter: must be a table, got [{'rank': 8}] (write adapter.rank = ...)",
        ),
        (
            {"use": "rlhf", "policy": {"loss": {"kl_coef": "x"}}},
            "technique.policy.loss.kl_coef: should be a valid number, got 'x'",
        ),
        (
            {"use": "rlhf", "policy": {"rewards": [{"wieght": 1}]}},
            'technique.policy.rewards.0.wieght: unknown key (did you mean "weight"?)',
        ),
        (
            {"use": "lora", "adapter": {"target_modules": 1}},
            "technique.adapter.target_modules: should be 'all-linear', got 1",
        ),
        (
            {"use": "lora", "optimizer": "adamw-8bit"},
            "technique.optimizer: must be a table, got 'adamw-8bit' (write optimizer.name = ...)",
        ),
        (
            {"use": "lora", "schedule": "linear"},
            "technique.schedule: must be a table, got 'linear' (write schedule.type = ...)",
        ),
        (
            {"use": "preference", "loss": "ipo"},
            "technique.loss: must be a table, got 'ipo' (write loss.type = ...)",
        ),
    ],
)
def test_a_problem_in_a_nested_table_names_its_dotted_key(
    technique: dict[str, Any], problem: str
) -> None:
    assert _problems(technique) == {problem}


def test_tables_of_base_classes_are_merged() -> None:
    class Base(Options):
        EARLIER: ClassVar[Mapping[str, str]] = {"a": "x", "b": "y"}

    class Derived(Base):
        EARLIER: ClassVar[Mapping[str, str]] = {"b": "z", "c": "x"}

    assert earlier_keys(Options) == {}
    assert earlier_keys(Derived) == {"a": "x", "b": "z", "c": "x"}


class HouseOptions(Options):
    """Options of a table that may add to the training."""

    weight: float = Field(0.0, ge=0, description="Weight of the term.")


def house(**changes: Any) -> TableOffer[HouseOptions]:
    def addition(options: HouseOptions) -> Addition | None:
        return Addition(build=lambda context: options.weight, **changes) if options.weight else None

    return TableOffer(name="house", summary="x", config=HouseOptions, addition=addition)


def bench_with(bench: Bench, table: TableOffer[Any], **technique: Any) -> Bench:
    """Give the bench a table, and a technique that accepts additions."""
    (offered,) = bench.catalog.offers(TechniqueOffer)
    echo = replace(offered.offer, accepts_additions=True, **technique)
    bench.catalog = catalog_of(
        house=offering("tables", table), other=offering("techniques", replace(echo, name="other"))
    )
    return bench


def test_a_table_adds_to_the_training_of_a_technique_that_accepts_it(bench: Bench) -> None:
    bench = bench_with(bench, house())
    other = {"use": "other", "epochs": 3, "save_every": 4}
    plan = bench.plan(technique=other, house={"weight": 0.5})
    (addition,) = plan.additions
    assert (addition.table, addition.build(None)) == ("house", 0.5)
    error = pytest.raises(PluginError, match=r'plugin "file:house".* failed in \[house\]: KeyError')
    with error, addition.blame():
        raise KeyError("x")
    used = {used["name"] for used in list_used_plugins(plan)}
    assert "house" in {name.rpartition(":")[2] for name in used}
    without = bench.plan(technique=other)
    assert without.additions == () == bench.plan().additions
    assert "house" not in {used["name"] for used in list_used_plugins(without)}


def test_plugins_of_baselines_and_of_the_encoder_are_used(bench: Bench) -> None:
    """Their versions are recorded, and compared when the run is resumed."""
    bench.catalog = catalog_of(
        cheap=offering("baselines", replace(ZERO_SHOT, name="cheap")),
        words=offering("encoders", WORDS),
    )
    for baseline in ("cheap", "zero-shot"):
        plan = bench.plan(baselines={"use": [baseline]})
        used = {used["name"].rpartition(":")[2] for used in list_used_plugins(plan)}
        assert "words" in used and ("cheap" in used) == (baseline == "cheap")


def test_with_another_technique_the_run_file_is_refused(bench: Bench) -> None:
    found = problems(bench_with(bench, house()), house={"weight": 0.5})
    assert found == {
        "house": (
            "technique echo does not support tables that add to the training remove the table, "
            "or use a technique that supports it: other"
        )
    }


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("technique", [True, False])
def test_several_processes_need_every_part(bench: Bench, table: bool, technique: bool) -> None:
    bench = bench_with(bench, house(data_parallel=table), data_parallel=technique)
    other = {"use": "other", "epochs": 3, "save_every": 4}
    plan = bench.plan(technique=other, house={"weight": 0.5})
    expected = "technique other" if not technique else "" if table else "[house]"
    assert plan.single_process_part == expected


def test_a_fault_in_an_addition_names_its_plugin(bench: Bench) -> None:
    broken: Any = replace(house(), addition=lambda options: "no addition")
    with pytest.raises(PluginError, match=r"file:house.* in \[house\]"):
        bench_with(bench, broken).plan()
