"""Searches with a launcher that writes the events of runs: their order, ends and results."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_launcher import FakeLauncher, Script, fail, succeed

from tunesmith import api
from tunesmith.errors import RunStopped, TrainingError
from tunesmith_cli.common import CliState
from tunesmith_optuna.findings import Row
from tunesmith_optuna.options import TuneOptions
from tunesmith_optuna.request import Request, change_table, read_request
from tunesmith_optuna.search import Search
from tunesmith_optuna.study import FOLDER, Study
from tunesmith_optuna.trial_log import TrialLog
from tunesmith_optuna.trial_run import find_options

EPOCHS, BATCH = "technique.epochs", "technique.batch_size"


class Lines:
    """A view that keeps what it is to show."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.resumed: list[int] = []
        self.rows: list[Row] = []

    def begin(self, number: int, options: Mapping[str, object], resumed: bool) -> None:
        if resumed:
            self.resumed.append(number)
        else:
            self.begun.append(dict(options))

    def update(self, running: Sequence[TrialLog]) -> None:
        pass

    def end(self, row: Row) -> None:
        self.rows.append(row)


Make = Callable[..., Search]


@pytest.fixture
def make(run_file: Path, tmp_path: Path) -> Make:
    """Return a function that makes a search, in one folder or in another one."""
    request = read_request(CliState(), run_file, (), (), {})

    def make_search(script: Script | FakeLauncher, name: str = "study", **options: Any) -> Search:
        folder = tmp_path / name
        chosen = request.options.model_copy(update={"trials": 4, **options})
        own = Request(change_table(request.plan, chosen), request.catalog, request.objective)
        if not folder.is_dir():
            own.create_folder(folder)
        (folder / FOLDER).mkdir(exist_ok=True)
        study = Study(folder, chosen.space, "minimize", chosen.pruner, chosen.seed or 0)
        launcher = script if isinstance(script, FakeLauncher) else FakeLauncher(script)
        first = chosen.space.encode(find_options(request.plan, [EPOCHS, BATCH]))
        return Search(study, own.runs(folder), launcher, chosen, Lines(), first)

    return make_search


def by_options(options: dict[str, Any]) -> list[dict[str, Any]]:
    return succeed(options["epochs"] + options["batch_size"] / 10)


def run(search: Search) -> Lines:
    search.run()
    assert isinstance(search.view, Lines)
    return search.view


def test_the_first_trial_has_the_run_files_own_options(make: Make) -> None:
    lines = run(make(by_options))
    assert lines.begun[0] == {EPOCHS: 1, BATCH: 4}  # batch_size by default
    assert [row.state for row in lines.rows] == ["complete"] * 4
    assert lines.rows[0].result is not None and lines.rows[0].result.value == pytest.approx(1.4)
    assert lines.rows[0].seconds == 2.0


def test_the_same_seed_gives_the_same_trials_also_after_an_interruption(make: Make) -> None:
    whole = run(make(by_options, "whole", trials=7, seed=3)).begun
    other = run(make(by_options, "other", trials=7, seed=4)).begun
    parts = [run(make(by_options, "parts", trials=n, seed=3)).begun for n in (2, 5, 7)]
    assert [options for part in parts for options in part] == whole != other


def test_no_combination_is_trained_twice_and_a_finite_space_ends(make: Make) -> None:
    lines = run(make(by_options, trials=30))
    assert len(lines.begun) == 9 == len({tuple(options.values()) for options in lines.begun})
    assert not run(make(by_options, trials=31)).begun


def test_a_failed_trial_has_its_reason_and_does_not_end_the_search(make: Make) -> None:
    def script(options: dict[str, Any]) -> list[dict[str, Any]]:
        if options["epochs"] == 1:
            return fail("CUDA out of memory")
        return [{"event": "run-started"}] if options["epochs"] == 2 else by_options(options)

    search = make(script, trials=9)
    states = {row.options[EPOCHS]: (row.state, row.reason) for row in run(search).rows}
    assert states == {
        1: ("failed", "CUDA out of memory"),
        2: ("failed", "its process was killed"),
        3: ("complete", ""),
    }
    best = search.study.sort(search.study.rows())[0]
    assert best.options == {EPOCHS: 3, BATCH: 2}


def test_three_failures_at_first_end_the_search(make: Make) -> None:
    search = make(lambda options: fail("no model"), trials=9)
    with pytest.raises(TrainingError, match="the first 3 trials failed: no model"):
        search.run()
    assert len(search.study.rows()) == 3


def test_options_that_exclude_each_other_are_a_failed_trial(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make(by_options)
    search.runs = replace(search.runs, plan=search.runs.plan)
    real = api.load_plan

    def load(tables: Any, *, sets: Any = (), **more: Any) -> Any:
        wrong = {"technique.epochs": 0} if dict(sets).get(BATCH) == 4 else {}
        return real(tables, sets={**dict(sets), **wrong}, **more)

    monkeypatch.setattr(api, "load_plan", load)
    lines = run(search)
    failed = [row for row in lines.rows if row.state == "failed"]
    assert failed and all("technique.epochs: " in row.reason for row in failed)
    assert not any(row.options[BATCH] == 4 for row in lines.rows if row.state == "complete")


def worse_with_epochs(options: dict[str, Any]) -> list[dict[str, Any]]:
    losses = [options["epochs"] + options["batch_size"] / 10 - n / 100 for n in range(10)]
    return succeed(losses[-1], losses)


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
@pytest.mark.parametrize("looks", [0, 3])
def test_a_worse_trial_is_stopped_and_says_so(make: Make, pruner: str, looks: int) -> None:
    """The decision is that of the losses, also if the run was quicker than its signal."""
    launcher = FakeLauncher(worse_with_epochs, looks=looks)
    search = make(launcher, trials=9, pruner=pruner)
    pruned = {row.number: row for row in run(search).rows if row.state == "pruned"}
    assert pruned and {path.name for path in launcher.stopped} == {
        f"trial-{number:03d}" for number in pruned
    }
    row = next(iter(pruned.values()))
    assert row.reason.startswith("stopped at step ") and "its validation loss, " in row.reason
    best = search.study.sort(search.study.rows())[0]
    assert best.options == {EPOCHS: 1, BATCH: 2}
    quick = run(make(FakeLauncher(worse_with_epochs), "quick", trials=9, pruner=pruner))
    assert {r.number for r in quick.rows if r.state == "pruned"} == pruned.keys()


def test_without_a_pruner_no_trial_is_stopped(make: Make) -> None:
    launcher = FakeLauncher(worse_with_epochs)
    assert {row.state for row in run(make(launcher, trials=9, pruner="none")).rows} == {"complete"}
    assert not launcher.stopped


def test_validation_losses_of_a_metric_that_rises_are_turned_around(
    make: Make, tmp_path: Path
) -> None:
    search = make(worse_with_epochs, trials=9)
    search.study = Study(tmp_path / "study", search.options.space, "minimize", "median", 0)
    (tmp_path / "up").mkdir()
    up = Study(tmp_path / "up", search.options.space, "maximize", "median", 0)
    search.study = up
    pruned = [row for row in run(search).rows if row.state == "pruned"]
    assert pruned and all(row.options[EPOCHS] > 1 for row in pruned)


def test_trials_at_the_same_time(make: Make) -> None:
    launcher = FakeLauncher(by_options, looks=2)
    lines = run(make(launcher, trials=7, parallel=3))
    assert launcher.most == 3 and len(lines.rows) == 7


def test_after_its_minutes_no_trial_begins(make: Make) -> None:
    assert len(run(make(by_options, trials=9, minutes=1e-9)).rows) == 0


def test_a_stopped_search_continues_its_trial(make: Make) -> None:
    def stop(options: dict[str, Any]) -> list[dict[str, Any]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return [{"event": "run-started"}]

    launcher = FakeLauncher(stop, looks=5)
    search = make(launcher)
    with pytest.raises(RunStopped):
        search.run()
    assert launcher.stopped == launcher.started
    again = FakeLauncher(by_options)
    lines = run(make(again))
    assert lines.resumed == [0] and again.started[0] == launcher.started[0]
    assert len(lines.rows) == 4 and len(lines.begun) == 3


@pytest.mark.parametrize("parallel", [1, 2])
def test_fewer_trials_at_the_same_time_than_before(make: Make, parallel: int) -> None:
    """All unfinished trials go on, at most so many together, before a new one begins."""

    def stop(options: dict[str, Any]) -> list[dict[str, Any]]:
        if len(first.started) == 3:  # a second signal would end this process
            os.kill(os.getpid(), signal.SIGTERM)
        return [{"event": "run-started"}]

    first = FakeLauncher(stop, looks=5)
    with pytest.raises(RunStopped):
        make(first, parallel=3).run()
    again = FakeLauncher(by_options, looks=2)
    lines = run(make(again, parallel=parallel, minutes=1e-9))  # for new trials only
    assert again.most == parallel and lines.resumed == [0, 1, 2] and not lines.begun
    assert [row.state for row in lines.rows] == ["complete"] * 3


def test_jobs_of_a_cluster_go_on_when_the_search_is_stopped(make: Make) -> None:
    def stop(options: dict[str, Any]) -> list[dict[str, Any]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    launcher = FakeLauncher(stop, looks=5, leaves_runs=True)
    with pytest.raises(RunStopped):
        make(launcher).run()
    assert not launcher.stopped


@pytest.mark.parametrize(
    ("events", "state"), [(succeed(1.0), "complete"), (fail("no memory"), "failed")]
)
def test_a_job_that_has_ended_while_no_search_looked_is_not_started_again(
    make: Make, events: list[dict[str, Any]], state: str
) -> None:
    def stop(options: dict[str, Any]) -> list[dict[str, Any]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return events

    first = FakeLauncher(stop, looks=5, leaves_runs=True)
    with pytest.raises(RunStopped):
        make(first, trials=1).run()
    again = FakeLauncher(by_options, leaves_runs=True)
    (row,) = run(make(again, trials=1)).rows
    assert row.state == state and not again.started


def test_a_job_that_was_stopped_may_be_requeued(make: Make) -> None:
    """Its run ends with ``stopped``, and the trial is over when the job is, or the run succeeds."""

    def script(options: dict[str, Any]) -> list[dict[str, Any]]:
        end = {"event": "run-finished", "status": "stopped", "error": "x", "seconds": 3.0}
        return [{"event": "run-started"}, end]

    class Requeued(FakeLauncher):
        def is_active(self, folder: Path) -> bool:
            active = super().is_active(folder)
            if self._left.get(folder) == 0:
                import json

                with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(event) + "\n" for event in succeed(1.0))
            return active

    launcher = Requeued(script, looks=2, leaves_runs=True)
    (row,) = run(make(launcher, trials=1)).rows
    assert row.state == "complete" and row.seconds == 5.0


def test_options_have_their_defaults() -> None:
    assert TuneOptions().space.dimensions == ()
