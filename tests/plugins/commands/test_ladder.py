"""``tunesmith ladder``, with a plugin that needs no tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from tunesmith.events import Measured, RivalChosen
from tunesmith.execution.report import Report
from tunesmith.testing import sample_event
from tunesmith_plugins.commands.ladder.command import show

Tunesmith = Callable[..., Result]


@pytest.fixture
def with_rivals(tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,majority,zero-shot,nearest,ladder")
    return tunesmith


def test_ladder_prints_a_table_and_trains_nothing(with_rivals: Tunesmith, tmp_path: Path) -> None:
    done = with_rivals("ladder", "run.toml", "--out", "steps", "--only", "zero-shot")
    assert done.exit_code == 0, done.output
    assert "zero-shot" in done.stdout and "95 % interval" in done.stdout
    assert not (tmp_path / "steps" / "artifact").exists()
    assert "tunesmith resume" in done.stderr
    resumed = with_rivals("resume", "steps")
    assert resumed.exit_code == 0, resumed.output
    assert "tuned" in resumed.stdout and "zero-shot" in resumed.stdout


def test_ladder_as_json(with_rivals: Tunesmith) -> None:
    done = with_rivals("ladder", "run.toml", "--out", "steps", "--json", "--only", "zero-shot")
    assert done.exit_code == 0, done.output
    ladder = json.loads(done.stdout)
    assert ladder["schema"] == "tunesmith.ladder/1"
    (rung,) = ladder["rungs"]
    assert (rung["rival"], rung["solution"], rung["n"]) == ("zero-shot", "prompt", 4)


def test_an_unknown_rival(with_rivals: Tunesmith) -> None:
    done = with_rivals("ladder", "run.toml", "--only", "best")
    assert done.exit_code == 2 and "best" in done.stderr


def test_the_direction_is_that_of_a_rung_that_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The cheapest one may be skipped: it has no metric."""
    lower: dict[str, Any] = {"evaluator": "loss", "metric": "loss", "higher_is_better": False}
    skipped = RivalChosen(rival="majority", solution="constant", cost=0, skipped="no rows")
    chosen = RivalChosen(rival="zero-shot", solution="prompt", cost=100, **lower)
    measured = sample_event(Measured, model="zero-shot", n=4, **lower)
    report = Report(
        rivals={"majority": skipped, "zero-shot": chosen},
        measured={("zero-shot", "loss", "loss"): measured},
    )
    show(report, SimpleNamespace(path=Path("steps")), as_json=True)  # type: ignore[arg-type]
    found = json.loads(capsys.readouterr().out)
    assert (found["metric"], found["evaluator"], found["higher_is_better"]) == (
        "loss",
        "loss",
        False,
    )
    show(report, SimpleNamespace(path=Path("steps")), as_json=False)  # type: ignore[arg-type]
    assert "loss, lower is better" in capsys.readouterr().out
