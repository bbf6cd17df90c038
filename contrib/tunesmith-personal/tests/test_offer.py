"""The review of run files, and the options that are refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from people import invoke, make_options, make_rows, write_run

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith_personal import PLUGIN, commands, exchange
from tunesmith_personal.offer import review_plan


def review(folder: Path, model: Path, **tables: Any) -> list[str]:
    """Return the messages about a run file with these tables."""
    path = write_run(folder, model)
    found = {**tomllib.loads(path.read_text(encoding="utf-8")), **tables}
    found["data"]["train"] = str(folder / "rows.jsonl")
    return [f"{f.where}: {f.message}" for f in review_plan(api.load_plan(found)[0])]


def test_a_good_run_file_has_no_finding(tiny_model: Path, tmp_path: Path) -> None:
    assert review(tmp_path, tiny_model) == []


def test_a_split_without_rows_of_each_user_is_a_finding(tiny_model: Path, tmp_path: Path) -> None:
    (found,) = review(tmp_path, tiny_model, split={"use": "grouped"})
    assert found.startswith("split.use: no user's adapter can be judged")


def test_files_with_rows_of_the_same_users_are_no_leak(able_model: Path, tmp_path: Path) -> None:
    path = write_run(tmp_path, able_model, make_rows(4, 20), epochs=1.0)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in (("rows", lines[::2]), ("test", lines[1::2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    text = path.read_text(encoding="utf-8").replace("test_size = 0.2", 'test = "test.jsonl"')
    path.write_text(text, encoding="utf-8")

    findings = json.loads(invoke("check", path, "--json").stdout)["findings"]
    assert [f["level"] for f in findings if "belong to a group" in f["message"]] == ["info"] * 3
    done = invoke("run", path, "--out", tmp_path / "run", "-q")
    assert done.exit_code == 0 and "FIX DATA FIRST" not in done.output, done.output


@pytest.mark.parametrize(
    "evaluators", [["user-gain"], ["loss", "user-gain"], ["user-gain", "exact-match"]]
)
def test_the_first_evaluator_must_rate_answers(
    tiny_model: Path, tmp_path: Path, evaluators: list[str]
) -> None:
    tables = [{"use": name} for name in evaluators]
    found = review(tmp_path, tiny_model, evaluators=tables)[-1]
    assert "the first evaluator must rate each generated answer" in found


def test_a_verdict_about_the_shared_adapter_is_a_finding(tiny_model: Path, tmp_path: Path) -> None:
    (found,) = review(tmp_path, tiny_model, evaluators=[{"use": "exact-match"}])
    assert found.startswith("evaluators: the verdict is about the shared adapter")


def test_the_evaluator_needs_the_technique(tiny_model: Path, tmp_path: Path) -> None:
    found = review(tmp_path, tiny_model, technique={"use": "lora"})
    names = ("user-exact-match", "user-gain")
    assert found == [f"evaluators.{name}: needs the technique personal" for name in names]


@pytest.mark.parametrize("table", [{"dropout": 0.1}, {"use_dora": True}])
def test_adapters_that_users_cannot_have_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"adapter.{next(iter(table))}"):
        make_options(adapter=table)


def test_every_command_exists() -> None:
    offers = PLUGIN.tunesmith_commands()
    assert len(offers) == 7
    for offer in offers:
        name = offer.name.split()[-1]
        assert isinstance(getattr(commands, f"{name}_command"), click.Command)


def test_data_that_is_not_read_from_a_file_cannot_be_added(tmp_path: Path) -> None:
    plan: Any = type("Plan", (), {})()
    plan.technique = type("Used", (), {"config": None})()
    plan.data = plan.technique
    with pytest.raises(UsageError, match="not a run of the technique personal"):
        exchange.add_users(tmp_path, plan, tmp_path / "x.jsonl", print)
