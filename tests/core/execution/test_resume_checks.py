"""Changes between the start of a run and its resumption are found and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.errors import UsageError
from tunesmith.events import DataLoaded, Event, ModelResolved, RunStarted
from tunesmith.execution.resume_checks import (
    ResumeCheck,
    check_data,
    check_libraries,
    check_model,
    check_options,
    check_plugins,
    fingerprint_files,
)

STARTED = RunStarted(
    run="r",
    name="r",
    started="2026-11-01T00:00:00+00:00",
    plan={
        "run": {"seed": 1, "device": "cpu", "folder": "runs", "max_minutes": None},
        "technique": {"use": "lora", "rank": 8, "adapter": {"alpha": 16.0}},
        "evaluators": [{"use": "loss"}],
        "reporters": [{"use": "console"}],
    },
    versions={"torch": "2.13", "numpy": "2.0"},
    plugins=[],
)
DATA = DataLoaded(description="", train=8, test=2, skipped={}, fingerprint="a" * 64)


def changed(**tables: object) -> RunStarted:
    return replace(STARTED, plan={**STARTED.plan, **tables})


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"technique": {"use": "lora", "rank": 9, "adapter": {"alpha": 16.0}}}, "technique.rank"),
        ({"technique": {"use": "lora", "rank": 8, "adapter": {"alpha": 1.0}}}, "adapter.alpha"),
        ({"technique": {"use": "lora", "rank": 8}}, "technique.adapter.alpha"),
        ({"evaluators": [{"use": "kl"}]}, "evaluators.0.use"),
        ({"run": {"seed": 2, "device": "cpu"}}, "run.seed"),
    ],
)
def test_an_option_that_decides_the_result_is_named(tables: dict[str, object], key: str) -> None:
    (difference,) = check_options(STARTED, changed(**tables))
    assert key in difference and " was " in difference and " is now " in difference


@pytest.mark.parametrize(("weight", "then", "now"), [(0.5, 1, 1), (0.0, 1, 0), (0.5, 0, 1)])
def test_a_table_that_adds_to_the_training_decides_the_result(
    weight: float, then: int, now: int
) -> None:
    """Also one whose new options no longer add anything; other tables of plugins may change."""
    before = replace(changed(retention={"weight": 1.0}), additions=["retention"] * then)
    after = replace(changed(retention={"weight": weight}), additions=["retention"] * now)
    (difference,) = check_options(before, after)
    assert difference == f"retention.weight was 1.0, is now {weight}"
    assert not check_options(replace(before, additions=[]), replace(after, additions=[]))


def test_options_that_do_not_decide_the_result_may_change() -> None:
    run = {"seed": 1, "device": "cpu", "folder": "elsewhere", "max_minutes": 5.0}
    assert not check_options(STARTED, changed(run=run, reporters=[]))


def test_versions_of_libraries() -> None:
    now = replace(STARTED, versions={"torch": "2.14", "numpy": "2.0"})
    assert check_libraries(STARTED, now) == ["torch was 2.13, is now 2.14"]


def test_plugins_in_use_count_and_others_do_not() -> None:
    then = [{"distribution": "d", "name": "a", "version": "1"}]
    other = [{"distribution": "d", "name": "b", "version": "1"}]
    assert not check_plugins(then, then)
    assert not check_plugins(then + other, then)
    assert check_plugins(then, other) == ["d:b was absent, is now 1"]
    newer = [{**then[0], "version": "2"}]
    assert check_plugins(then, newer) == ["d:a was 1, is now 2"]


def test_data_is_compared_by_its_fingerprint() -> None:
    assert not check_data(DATA, replace(DATA, description="other words"))
    (difference,) = check_data(DATA, replace(DATA, train=9, fingerprint="b" * 64))
    assert "8 + 0 + 2" in difference and "9 + 0 + 2" in difference and "bbbbbbbbbbbb" in difference


def test_files_of_the_base_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(3 << 20))
    (tmp_path / "README.md").write_text("not read in training")
    before = fingerprint_files(tmp_path)
    assert before.keys() == {"config.json", "model.safetensors"}
    then = ModelResolved(reference="m", description="", files=before)
    (tmp_path / "README.md").write_text("edited")
    assert not check_model(then, replace(then, files=fingerprint_files(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(bytes((3 << 20) - 1) + b"x")
    (difference,) = check_model(then, replace(then, files=fingerprint_files(tmp_path)))
    assert difference.startswith("model.safetensors")
    assert not fingerprint_files(tmp_path / "nothing")


def test_changes_are_refused_or_accepted_with_a_finding() -> None:
    emitted: list[Event] = []
    ResumeCheck(emitted.append, accepted=False).require_unchanged("data", [], "restore it")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="data changed since the run started: a; b") as refused:
        ResumeCheck(emitted.append, accepted=False).require_unchanged(  # type: ignore[arg-type]
            "data", ["a", "b"], "restore it"
        )
    assert "restore it" in (refused.value.hint or "")
    assert not emitted
    ResumeCheck(emitted.append, accepted=True).require_unchanged("data", ["a"], "")  # type: ignore[arg-type]
    assert len(emitted) == 1
