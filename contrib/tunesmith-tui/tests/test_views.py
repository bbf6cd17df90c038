"""The numbers on the screens are those of tunesmith's own results."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import sample_runs
from rich.console import Console, RenderableType

import tunesmith
from tunesmith.events import RunStarted
from tunesmith.storage import LEASE_FILE, LockHolder
from tunesmith.testing import sample_event
from tunesmith_evidence.report.answers import read_answers
from tunesmith_tui.cells import describe_state
from tunesmith_tui.library import GROUPS, Listed
from tunesmith_tui.machine_load import describe_machine
from tunesmith_tui.run_state import RunState
from tunesmith_tui.views import monitor
from tunesmith_tui.views.answers import describe_rows, filter_rows
from tunesmith_tui.views.compare import compare_runs
from tunesmith_tui.views.run import describe_steps
from tunesmith_tui.views.runs import build_row, list_columns
from tunesmith_tui.views.search import list_changed_options, render_search


def read(path: Path) -> RunState:
    run = RunState(path)
    run.check()
    run.advance(float("inf"))
    return run


def draw(content: RenderableType, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(content)
    return console.export_text()


@pytest.mark.parametrize("group_by", ["", *GROUPS])
def test_the_columns_fit_into_every_width(group_by: str) -> None:
    for width in range(80, 250):
        columns = list_columns(width, group_by)
        assert sum(columns.values()) + len(columns) <= width - 2, width
    assert "started" in list_columns(160, "")
    assert all(min(list_columns(width, group_by).values()) > 0 for width in range(1, 80))


def test_a_comparison_agrees_with_the_python_interface(runs: Path) -> None:
    first, second = (next(runs.glob(f"*{name}*")) for name in ("a1b2", "c3d4"))
    found = compare_runs(first, second)
    expected = tunesmith.open_run(second).compare(tunesmith.open_run(first))
    assert dict(found.differences) == dict(expected) and found.names == ("tickets", "tickets-2")
    assert found.options["technique.learning_rate"] == (1e-4, 2e-4) and not found.obstacles


def test_runs_with_other_rows_are_not_compared(runs: Path) -> None:
    first, second = (next(runs.glob(f"*{name}*")) for name in ("a1b2", "c3d4"))
    path = second / "evaluations" / "tuned.exact-match.jsonl"
    path.write_text(path.read_text().replace("Question 3?", "Another?"))
    found = compare_runs(first, second)
    assert "the test rows differ" in found.obstacles[0] and not found.differences


def test_rows_that_got_worse_come_first(runs: Path) -> None:
    run = read(next(runs.glob("*a1b2*")))
    answers = read_answers(run.path, run.report)
    assert answers is not None
    assert [row.source for row in filter_rows(answers, "regressed")] == ["test.jsonl:9"]
    assert {row.source for row in filter_rows(answers, "wrong")} == {"test.jsonl:8", "test.jsonl:9"}
    rows = filter_rows(answers, "all")
    assert len(rows) == 10 and rows[0].source == "test.jsonl:9"
    assert describe_rows(answers, "wrong").startswith("wrong: 2. 2 of 10 rows wrong")


def test_all_rows_are_counted_where_not_all_are_listed(runs: Path) -> None:
    run = read(next(runs.glob("*a1b2*")))
    answers = read_answers(run.path, run.report)
    assert answers is not None
    many = replace(answers, rows=[*answers.rows] * 300)
    assert describe_rows(many, "all").startswith("all: 3,000, the first 2,000 listed. 600 of 3,000")


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_trial_is_first(tmp_path: Path, higher: bool) -> None:
    trials = []
    for number, value in enumerate((0.6, 0.8, 0.7)):
        plan = sample_runs.make_plan(0.01 * (number + 1))
        plan["technique"]["epochs"] = 3
        score = sample_runs.measure("tuned", value, part="validation")
        events = [sample_event(RunStarted, plan=plan), replace(score, higher_is_better=higher)]
        trials.append(read(sample_runs.write_run(tmp_path, f"trial-00{number}", events)))
    assert list_changed_options(trials) == ["technique.learning_rate"]
    lines = draw(render_search(trials, 100)).splitlines()[2:5]
    order = [line.split()[0] for line in lines]
    assert order == (["001", "002", "000"] if higher else ["000", "002", "001"])
    assert "0.02" in lines[0 if higher else 2] and "exact-match" in draw(render_search(trials, 100))


def test_the_state_of_a_run(runs: Path) -> None:
    done, half = (read(next(runs.glob(f"*{name}*"))) for name in ("a1b2", "mails"))
    assert describe_state(done).plain == "FINE-TUNE"
    assert describe_state(half).plain == "unfinished 62 %" and "left" not in describe_steps(half)
    (half.path / LEASE_FILE).write_text(json.dumps(asdict(LockHolder.current())))
    half.check()
    assert describe_state(half).plain == "running 62 %"
    # 15 of 40 steps are left, and each took 0.5 s.
    assert describe_steps(half) == "step 25 of 40, about 7.5 s left"
    half.damaged_count = 1
    assert describe_state(half).plain == "damaged 62 %"
    columns = list_columns(80, "")
    cells = [cell.plain for cell in build_row(Listed(half, "", 2), [half.path], columns)]
    assert cells[:2] == ["A", "  └ mails"]


def test_the_load_of_the_machine(tmp_path: Path) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal:  4194304 kB\nMemFree: 1 kB\nMemAvailable:  1048576 kB\n")
    assert describe_machine(memory).endswith("memory 3.0 GiB of 4.0 GiB")
    assert "memory" not in describe_machine(tmp_path / "missing")


def test_a_monitor_is_shown_where_it_is_installed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(runs.glob("*a1b2*"))
    monkeypatch.setattr(monitor, "entry_points", lambda **_: [])
    assert "not installed" in monitor.describe_monitor(run)
    monkeypatch.setattr(monitor, "entry_points", lambda **_: ["monitor"])
    assert "has no monitor" in monitor.describe_monitor(run)
    run.with_name(f"{run.name}.monitor").mkdir()
    assert monitor.describe_monitor(run) == ""
    # Without the distribution, the command line states that it does not know the command.
    assert "monitor" in monitor.read_monitor(run)
