"""``tunesmith init --from``: nothing that changes what is learned is dropped silently."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.plugins.commands.conftest import Tunesmith
from tests.plugins.commands.peer_configurations import CASES, Case

from tunesmith.catalog import Catalog
from tunesmith.errors import UsageError
from tunesmith.offers import DataLoaderOffer, TechniqueOffer
from tunesmith.options import from_table
from tunesmith.plugins import Selection, find_plugins
from tunesmith_plugins.commands.starter.translate import axolotl, llamafactory, shared
from tunesmith_plugins.commands.starter.translate.run_file import (
    nest_keys,
    read_yaml,
    to_toml,
    translate_file,
)
from tunesmith_plugins.commands.starter.translate.translation import (
    Outcome,
    Translation,
    is_disabled,
)

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return create_catalog()


@cache
def create_catalog() -> Catalog:
    return Catalog(find_plugins(Selection(allowed=frozenset())))


def recognize(names: Sequence[str]) -> str | None:
    return create_catalog().recognize(names)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the data that the configurations name."""
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "data").mkdir()
    columns = {"prompt": "question", "response": "answer"}
    info = {"tickets": {"file_name": "tickets.json", "columns": columns}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path


def translate(case: Case, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the keys of the run file, and the state of each key."""
    path = folder / "configuration.yml"
    path.write_text(case.text)
    tool = axolotl if case.name.startswith("ax") else llamafactory
    keys, outcomes = tool.translate(read_yaml(path), folder, recognize)
    return keys, {outcome.key: outcome.state for outcome in outcomes}


@by_name
def test_the_translation_is_the_expected_one(case: Case, folder: Path) -> None:
    keys, states = translate(case, folder)
    assert {key: keys.get(key) for key in case.keys} == case.keys
    assert {key for key, state in states.items() if state == "not translated"} == case.refused


@by_name
def test_every_key_has_an_outcome(case: Case, folder: Path) -> None:
    source = yaml.safe_load(case.text)
    _, states = translate(case, folder)
    assert set(source) <= set(states)
    # Which layers axolotl adapts by default is not translated, although no key says it.
    named = {key for key in states if states[key] != "default"} - {"lora_target_modules"}
    assert named <= set(source)


@by_name
def test_the_run_file_is_valid(case: Case, folder: Path, catalog: Catalog) -> None:
    path = folder / "configuration.yml"
    path.write_text(case.text)
    tool, tables, outcomes = translate_file(path, recognize)
    assert tool == ("axolotl" if case.name.startswith("ax") else "LLaMA-Factory")
    read = tomllib.loads(to_toml(path.name, tool, tables, outcomes))
    assert read == tables
    for table, kind in ("technique", TechniqueOffer), ("data", DataLoaderOffer):
        use = read[table].pop("use")
        read[table].pop("test_size", None)
        from_table(catalog.find(kind, use).offer.config, read[table])  # type: ignore[type-abstract]


@by_name
def test_another_value_changes_the_run_file_or_is_reported(case: Case, folder: Path) -> None:
    """Each translated number is written: no key is accepted and then read by nobody."""
    source = yaml.safe_load(case.text)
    tool = axolotl if case.name.startswith("ax") else llamafactory
    before, outcomes = tool.translate(source, folder, recognize)
    for outcome in outcomes:
        value = source.get(outcome.key)
        if outcome.state == "translated" and isinstance(value, (int, float)):
            other = not value if isinstance(value, bool) else value * 2 + 1
            changed, reported = tool.translate({**source, outcome.key: other}, folder, recognize)
            assert changed != before or refused(reported) - refused(outcomes), outcome.key


def refused(outcomes: list[Outcome]) -> set[str]:
    return {outcome.key for outcome in outcomes if outcome.state == "not translated"}


@pytest.mark.parametrize("tool", [axolotl, llamafactory])
def test_no_key_is_both_without_effect_and_refused(tool: Any) -> None:
    assert not tool.WITHOUT_EFFECT.keys() & tool.REFUSED.keys()
    base = {"base_model": "m", "model_name_or_path": "m"}
    for key in tool.REFUSED:
        _, outcomes = tool.translate({**base, key: 123}, Path(), recognize)
        assert {o.key: o.state for o in outcomes}[key] == "not translated", key
        _, outcomes = tool.translate({**base, key: None}, Path(), recognize)
        assert {o.key: o.state for o in outcomes}[key] == "no effect", key


def test_values_are_shown_without_secrets_and_control_characters() -> None:
    source = {"hub_token": "s3cret", "x": "\x1b[31m" + "y" * 500, "api_key": "k3y"}
    outcomes = Translation(source).finish({}, {})
    text = " ".join(o.value for o in outcomes)
    assert "s3cret" not in text and "k3y" not in text
    assert "\x1b" not in text and max(len(o.value) for o in outcomes) <= 60


def test_off_is_off_in_every_spelling() -> None:
    assert all(map(is_disabled, (None, False, 0, 0.0, "", "none", "False", [], {})))
    assert not any(map(is_disabled, (True, 1, "true", 0.1, [0], "adamw")))
    assert set(shared.SCHEDULES.values()) == {"cosine", "linear", "constant"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: 1\na: [1", "bad.yml:2"),
        ("- 1", "the top level of the file must be a mapping of keys to values"),
        ("1: 2", "the top level of the file must be a mapping of keys to values"),
        ("learning_rate: 1", "neither an axolotl config"),
        ("a: !!python/object/apply:os.system ['ls']", "bad.yml:1"),
        ("base_model: m\ndatasets: &a [*a]", ""),
        ("base_model: m\ndatasets: 5\nmicro_batch_size: [1]\nseed: x\nval_set_size: {}", ""),
        ("base_model: {a: 1}\nlora_r: .nan", ""),
    ],
)
def test_bad_files_are_refused_or_translated_but_never_crash(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.yml").write_text(text)
    if message:
        with pytest.raises(UsageError, match=message):
            translate_file(tmp_path / "bad.yml", recognize)
    else:
        assert translate_file(tmp_path / "bad.yml", recognize)[0] == "axolotl"


def test_dotted_keys_become_tables_in_order() -> None:
    nested = nest_keys({"technique.learning_rate": 1, "technique.use": "x", "data.use": "y"})
    assert nested == {"data": {"use": "y"}, "technique": {"use": "x", "learning_rate": 1}}
    assert list(nested["technique"]) == ["use", "learning_rate"]


def test_the_command_writes_the_file_and_lists_the_outcomes(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    (tmp_path / "peer.yaml").write_text(CASES[0].text)
    done = tunesmith("init", "--from", "peer.yaml", "new")
    assert done.exit_code == 0, done.output
    assert "NOT translated, although it may affect what is learned:\n  dataset: " in done.stdout
    assert "\n  template: 'llama3': the chat template of the model is used" in done.stdout
    assert "  lora_rank: 16 -> technique.adapter.rank = 16\n" in done.stdout
    assert "  lora_alpha -> technique.adapter.alpha = 32.0\n" in done.stdout
    assert "  do_train: a run always trains and evaluates\n" in done.stdout
    assert "keys were NOT translated" in done.stderr
    text = (tmp_path / "new" / "run.toml").read_text()
    assert "# NOT translated, although it may affect what is learned:" in text
    assert tomllib.loads(text)["technique"]["adapter"]["rank"] == 16
    again = tunesmith("init", "--from", "peer.yaml", "new")
    assert again.exit_code == 2 and "already exists" in again.stderr


ODD = (None, True, -1, 0.5, float("nan"), float("inf"), 10**400, "x", "\x1b\n]", "1e-4", [1], [{}],
       [{"path": 5}], {"a": 1})  # fmt: skip


@by_name
def test_odd_values_have_an_outcome_and_make_valid_toml(case: Case, folder: Path) -> None:
    source = yaml.safe_load(case.text)
    tool = axolotl if case.name.startswith("ax") else llamafactory
    for key in source:
        for value in ODD:
            keys, outcomes = tool.translate({**source, key: value}, folder, recognize)
            assert set(source) <= {outcome.key for outcome in outcomes}
            tomllib.loads(to_toml("x", "x", nest_keys(keys), outcomes))


def translate_sets(text: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the keys of [data], and the notes about the datasets; files are named alone."""
    source = yaml.safe_load(f"base_model: m/m\nadapter: lora\n{text}")
    keys, outcomes = axolotl.translate(source, folder, recognize)
    data = {key: value for key, value in keys.items() if key.startswith("data.")}
    for key in ("data.train", "data.test"):
        if isinstance(data.get(key), list):
            data[key] = [str(Path(file).relative_to(folder)) for file in data[key]]
    [found] = [outcome for outcome in outcomes if outcome.key == "datasets"]
    return data, found.text if found.state == "not translated" else ""


def test_all_files_of_a_data_set_are_read(folder: Path) -> None:
    text = "datasets: [{path: json, data_files: [a.jsonl, b.jsonl]}]\n"
    data, missing = translate_sets(
        text + "test_datasets: [{path: json, data_files: [c, d]}]", folder
    )
    assert data["data.train"] == ["a.jsonl", "b.jsonl"] and not missing
    assert data["data.test"] == ["c", "d"]
    data, missing = translate_sets("datasets: [{path: data, data_files: [a.csv, b.csv]}]", folder)
    assert data["data.train"] == ["data/a.csv", "data/b.csv"] and not missing
    text = "datasets: [{path: json, data_files: {train: [a.jsonl, b.jsonl], test: c.jsonl}}]"
    assert translate_sets(text, folder)[0]["data.train"] == ["a.jsonl", "b.jsonl"]


def test_files_of_a_set_of_the_hub_are_not_translated(folder: Path) -> None:
    data, missing = translate_sets("datasets: [{path: own/set, data_files: [p.jsonl]}]", folder)
    assert data["data.train"] == "hf://own/set" and missing == "data_files of a dataset"


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_the_data_loader_follows_the_ending(ending: str, folder: Path) -> None:
    loader = "jsonl" if ending == ".jsonl" else "table"
    (folder / "data" / "a").with_suffix(ending).write_text("")
    data, missing = translate_sets(f"datasets: [{{path: data/a{ending}}}]", folder)
    assert data["data.use"] == loader and not missing
    source = {"model_name_or_path": "m", "dataset": f"data/a{ending}"}
    assert llamafactory.translate(source, folder, recognize)[0]["data.use"] == loader


def test_files_that_need_several_data_loaders_are_not_translated(folder: Path) -> None:
    text = "datasets: [{path: json, data_files: [a.jsonl, b.csv]}]"
    assert "several data loaders" in translate_sets(text, folder)[1]
    data, missing = translate_sets("datasets: [{path: a.csv}, {path: rows.jsonl}]", folder)
    assert data["data.use"] == "table" and "rows.jsonl: use the `mixture` data loader" in missing


def test_a_template_of_a_data_set_is_not_translated(folder: Path) -> None:
    text = "datasets: [{path: rows.jsonl, type: chat_template, chat_template: llama3}]"
    assert translate_sets(text, folder)[1] == "chat_template of a dataset"
    assert not translate_sets(f"chat_template: llama3\n{text}", folder)[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("type: alpaca", "type: sharegpt"),
        ("type: alpaca", ""),
        ("type: chat_template, field_messages: talk", "type: chat_template"),
        ("type: {field_instruction: q, field_output: a}", "type: alpaca"),
    ],
)
def test_sets_of_different_types_are_not_translated(one: str, other: str, folder: Path) -> None:
    alone, _ = translate_sets(f"datasets: [{{path: a.jsonl, {one}}}]", folder)
    text = f"datasets: [{{path: a.jsonl, {one}}}, {{path: b.jsonl, {other}}}]"
    both, missing = translate_sets(text, folder)
    assert "b.jsonl is read with the type, columns and split of the first dataset" in missing
    assert {**both, "data.train": ""} == {**alone, "data.train": ""}
    text = f"datasets: [{{path: a.jsonl, {one}}}, {{path: b.jsonl, {one}}}]"
    assert not translate_sets(text, folder)[1]
