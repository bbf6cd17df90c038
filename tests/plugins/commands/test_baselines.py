"""``tunesmith baselines``, with a plugin that needs no tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from tunesmith.events import BaselineChosen, Measured
from tunesmith.execution.report import Report
from tunesmith.testing import sample_event
from tunesmith_plugins.commands.baselines import show

Tunesmith = Callable[..., Result]


@pytest.fixture
def with_baselines(tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,majority,zero-shot,nearest,baselines")
    return tunesmith


def test_baselines_prints_a_table_and_trains_nothing(
    with_baselines: Tunesmith, tmp_path: Path
) -> None:
    done = with_baselines("baselines", "run.toml", "--out", "steps", "--only", "zero-shot")
    assert done.exit_code == 0, done.output
    assert "zero-shot" in done.stdout and "95 % interval" in done.stdout
    assert not (tmp_path / "steps" / "artifact").exists()
    assert "tunesmith resume" in done.stderr
    resumed = with_baselines("resume", "steps")
    assert resumed.exit_code == 0, resumed.output
    assert "fine-tuning" in resumed.stdout and "zero-shot" in resumed.stdout


def test_baselines_as_json(with_baselines: Tunesmith) -> None:
    done = with_baselines(
        "baselines", "run.toml", "--out", "steps", "--json", "--only", "zero-shot"
    )
    assert done.exit_code == 0, done.output
    baselines = json.loads(done.stdout)
    assert baselines["schema"] == "tunesmith.baselines/1"
    (baseline,) = baselines["baselines"]
    assert (baseline["baseline"], baseline["solution"], baseline["n"]) == ("zero-shot", "prompt", 4)


def test_an_unknown_baseline(with_baselines: Tunesmith) -> None:
    done = with_baselines("baselines", "run.toml", "--only", "best")
    assert done.exit_code == 2 and "best" in done.stderr


def test_the_direction_is_that_of_a_baseline_that_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The cheapest one may be skipped: it has no metric."""
    lower: dict[str, Any] = {"evaluator": "loss", "metric": "loss", "higher_is_better": False}
    skipped = BaselineChosen(baseline="majority", solution="constant", cost=0, skipped="no rows")
    chosen = BaselineChosen(baseline="zero-shot", solution="prompt", cost=100, **lower)
    measured = sample_event(Measured, model="zero-shot", n=4, **lower)
    report = Report(
        baselines={"majority": skipped, "zero-shot": chosen},
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
