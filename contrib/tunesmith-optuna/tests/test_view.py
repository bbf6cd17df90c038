"""The display of a search: lines, the live view, the table, and the sentence about the best."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.offers import Metric
from tunesmith_optuna.findings import (
    Result,
    Row,
    SearchResult,
    format_option,
    shorten_keys,
    show_search_result,
)
from tunesmith_optuna.space import read_space
from tunesmith_optuna.study import Study
from tunesmith_optuna.trial_log import TrialLog, ValidationPoint
from tunesmith_optuna.trial_run import Objective
from tunesmith_optuna.view import SearchView

RATE, RANK = "technique.learning_rate", "technique.adapter.rank"
NAMES = {RANK: "rank", RATE: "learning_rate"}
LOSS = Objective(Metric(name="loss", higher_is_better=False), {"use": "loss"}, "loss")


def row(number: int, value: float | None, state: str = "complete", reason: str = "") -> Row:
    result = None if value is None else Result(value, value - 0.1, value + 0.1, 20)
    return Row(number, state, {RANK: 4 + number, RATE: 2e-4}, result, 61.0, reason)


def findings(*rows: Row, own: dict[str, Any] | None = None) -> SearchResult:
    ranking = sorted((r for r in rows if r.result), key=lambda r: r.result.value if r.result else 0)
    return SearchResult(Path("/study"), LOSS, NAMES, rows, ranking, {}, own)


def test_the_best_is_named_with_how_sure_that_is() -> None:
    found = findings(row(0, 1.0), row(1, 0.5), row(2, 0.55), own={RANK: 4, RATE: 2e-4})
    assert found.describe_best() == (
        "Best: trial 1, loss 0.500 on 20 validation rows; "
        "the run file's own options, trial 0: 1.000. "
        "Being the best of 3 is partly luck, so expect a worse score on other rows; 1 of the 2 "
        "other trials is in its 95 % interval. Test rows were not used."
    )
    best_own = replace(found, own={RANK: 5, RATE: 2e-4}).describe_best()
    assert "on 20 validation rows, the run file's own options. Being the best of 3" in best_own
    equal = findings(row(0, 0.5), row(1, 0.5)).describe_best()
    assert "other rows; all other trials are in its 95 % interval." in equal
    alone = findings(row(0, 1.0), row(1, None, "failed")).describe_best()
    assert alone.endswith("No other trial has a score to compare with.")


def test_the_table_has_every_trial_and_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    lost = row(2, None, "failed", "out of\x1b[2J memory")
    shown = replace(findings(row(0, 1.0), row(1, 0.5), lost), importances={RATE: 0.2, RANK: 0.8})
    show_search_result(shown)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines if line.strip()[:1] in ("0", "1", "2")] == [
        "1", "0", "2",
    ]  # fmt: skip
    assert "trial 2 failed: out of\\x1b[2J memory" in printed.out and "\x1b" not in printed.out
    assert "Importance (share of the score variance): rank 80 %, learning_rate 20 %." in printed.out
    assert "run file: /study/best.toml" in printed.out
    assert "tunesmith run /study/best.toml" in printed.err
    assert max(map(len, lines[:8])) <= 80


def test_json_has_every_trial() -> None:
    found = json.loads(json.dumps(findings(row(0, 1.0), row(1, None, "pruned", "x")).to_json()))
    assert found["best"] == 0 and found["run_file"] == "/study/best.toml"
    assert [(t["number"], t["state"], t["value"], t["reason"]) for t in found["trials"]] == [
        (0, "complete", 1.0, ""),
        (1, "pruned", None, "x"),
    ]
    assert findings(row(0, None, "failed")).to_json()["best"] is None


def test_short_names_tell_options_apart() -> None:
    space = read_space({RATE: [1, 2], RANK: [1, 2], "technique.reward.rank": [1, 2]})
    assert shorten_keys(space) == {
        RATE: "learning_rate",
        RANK: "adapter.rank",
        "technique.reward.rank": "reward.rank",
    }
    assert [format_option(x) for x in (True, 2e-4, 4, "all-linear")] == [
        "true", "2e-4", "4", "all-linear",
    ]  # fmt: skip


def test_without_a_terminal_there_is_a_line_for_each_trial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with SearchView(LOSS, NAMES, quiet=False) as view:
        view.begin(0, {RANK: 4, RATE: 2e-4}, resumed=False)
        view.update([])
        view.begin(1, {RANK: 8, RATE: 2e-4}, resumed=True)
        view.end(row(0, 0.5))
        view.end(row(1, None, "pruned", "stopped at step 4"))
    assert capsys.readouterr().err.splitlines() == [
        "trial 0 starts: rank 4, learning_rate 2e-4",
        "trial 1 continues: rank 8, learning_rate 2e-4",
        "trial 0: loss 0.500 [0.400, 0.600], 1 min 01 s",
        "trial 1 pruned: stopped at step 4",
    ]


def test_in_a_terminal_the_trials_that_run_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    log = TrialLog(tmp_path / "trial-012", step=3, steps=9, loss=1.25)
    log.evaluations[3] = ValidationPoint(3, 9, 1.5)
    with SearchView(LOSS, NAMES, quiet=False) as view:
        view.update([TrialLog(tmp_path / "trial-007"), log])
        view.end(row(1, 0.5))
    text = terminal.getvalue()
    assert "trial 12" in text and "3/9  loss 1.250  validation loss 1.500" in text
    assert "trial 7" in text and "waiting or preparing" in text and "trial 1: loss 0.500" in text


def test_events_are_read_as_they_come(tmp_path: Path) -> None:
    log, path = TrialLog(tmp_path), tmp_path / "events.jsonl"
    log.read()
    started = json.dumps({"event": "training-started", "steps": 8})
    monitored = {"event": "monitored", "step": 4, "metrics": {"validation_loss": 2.0}}
    whole = json.dumps(monitored)
    path.write_text(f"{started}\n{whole[:20]}")
    log.read()
    assert log.steps == 8 and log.validation_loss is None and log.status == "unfinished"
    before = json.dumps({**monitored, "step": 0})
    path.write_text(f"{started}\n{whole}\n{before}\n")
    log.read()
    assert log.evaluations == {4: ValidationPoint(4, 8, 2.0)} and log.evaluations[4].tenth == 5
    end = {"event": "run-finished", "status": "stopped", "error": "", "seconds": 3.0}
    with path.open("a") as file:
        file.write(json.dumps(end) + "\n")
    log.read()
    assert (log.status, log.seconds) == ("stopped", 3.0)
    with path.open("a") as file:  # requeued
        file.write(json.dumps({"event": "run-started"}) + "\n")
    log.read()
    assert log.status == "unfinished"
    with path.open("a") as file:
        file.write(json.dumps(end) + "\n")
    log.read()
    assert (log.status, log.seconds) == ("stopped", 6.0)


def test_importances_need_enough_trials(tmp_path: Path) -> None:
    space = read_space({RATE: {"low": 1e-4, "high": 1e-2, "log": True}, RANK: [4, 8]})
    study = Study(tmp_path, space, "minimize", "none", 0)
    for number in range(10):
        assert study.importances() == {}, number
        trial = study.propose(None)
        assert trial is not None
        value = trial.params[RATE] * 100
        study.finish(trial, Result(value, value, value, 1), 1.0)
    found = study.importances()
    assert sum(found.values()) == pytest.approx(1.0) and found[RATE] > found[RANK]


def test_every_trial_of_a_continuous_space_is_another_one(tmp_path: Path) -> None:
    space = read_space({RATE: {"low": 1e-4, "high": 1e-2, "log": True}})
    study = Study(tmp_path, space, "minimize", "none", 0)
    trials = [study.propose(None) for _ in range(4)]
    assert len({trial.params[RATE] for trial in trials if trial}) == 4
    assert [trial.number for trial in study.unfinished()] == [0, 1, 2, 3]
