"""``tunesmith runs`` lists runs from the ends of their logs, and deletes them after a question."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import Result

from tunesmith.storage import LockHolder, lock
from tunesmith_plugins.commands.run_list import read_runs
from tunesmith_plugins.commands.run_list.command import matches_text

Tunesmith = Callable[..., Result]


def list_runs(tunesmith: Tunesmith, *args: str | Path) -> list[dict[str, object]]:
    done = tunesmith("runs", *args, "--json")
    assert done.exit_code == 0, done.output
    listed = json.loads(done.stdout)
    assert listed["schema"] == "tunesmith.runs/1"
    runs: list[dict[str, object]] = listed["runs"]
    return runs


@pytest.fixture
def runs(tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run that went well, and one that failed."""
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,verdict,run-list,runs,zero-shot")
    assert tunesmith("run", "run.toml", "--out", "runs/good").exit_code == 0
    assert tunesmith("run", "run.toml", "--out", "runs/bad", "--set", "run.seed=666").exit_code
    return tmp_path / "runs"


def test_runs_are_listed_with_their_results(tunesmith: Tunesmith, runs: Path) -> None:
    found = {Path(str(run["path"])).name: run for run in list_runs(tunesmith)}
    good, bad = found["good"], found["bad"]
    assert (good["status"], good["model"], good["technique"]) == ("ok", "fake:one", "by-heart")
    assert (good["metric"], good["value"]) == ("same", 1.0)
    assert good["resumable"] is False
    assert bad["status"] == "failed" and bad["resumable"] is True and bad["error"]
    assert good["bytes"] == sum(p.stat().st_size for p in (runs / "good").rglob("*") if p.is_file())
    shown = tunesmith("runs")
    assert "failed*" in shown.stdout and "same 1.000" in shown.stdout
    assert "tunesmith resume runs/bad" in shown.stderr


def test_filters(tunesmith: Tunesmith, runs: Path) -> None:
    def names(*args: str) -> list[str]:
        return [Path(str(run["path"])).name for run in list_runs(tunesmith, *args)]

    assert names("--status", "ok") == ["good"]
    assert names("--status", "ok", "--status", "failed") == names()
    assert names("--resumable") == ["bad"]
    assert names("--grep", "GOOD") == ["good"]
    assert names("--grep", "by-heart") == names()
    assert names("--limit", "1") == names()[:1]
    assert names("--status", "damaged") == []
    assert tunesmith("runs", "--status", "damaged").stdout == "no runs\n"
    assert tunesmith("runs", "nowhere").exit_code == 2
    (summary,) = [run for run in read_runs.read_runs(runs) if run.status == "ok"]
    assert matches_text(summary, "FAKE") and not matches_text(summary, "other")


def test_status_of_runs_that_did_not_end(runs: Path) -> None:
    log = runs / "good" / "events.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(lines[:-1]) + lines[-1][:20], encoding="utf-8")
    assert read_runs.read_run(runs / "good").status == "unfinished"
    holder = json.dumps(asdict(LockHolder.current()))
    (runs / "good" / "lease").write_text(holder, encoding="utf-8")
    assert read_runs.read_run(runs / "good").status == "running"
    dead = json.dumps({**asdict(LockHolder.current()), "pid": 2**22 + 1})
    (runs / "good" / "lease").write_text(dead, encoding="utf-8")
    assert read_runs.read_run(runs / "good").is_resumable
    log.write_text("nothing\n", encoding="utf-8")
    assert read_runs.read_run(runs / "good").status == "damaged"
    log.unlink()
    assert read_runs.read_run(runs / "good").status == "unfinished"


def test_a_last_line_may_be_longer_than_the_tail(runs: Path) -> None:
    log = runs / "good" / "events.jsonl"
    before = read_runs.read_run(runs / "good")
    last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**last, "hint": "x" * 200_000}) + "\n")
    after = read_runs.read_run(runs / "good")
    assert (after.status, after.word, after.value) == (before.status, before.word, before.value)


def test_lineage(runs: Path) -> None:
    shutil.copytree(runs / "good", runs / "next")
    log = runs / "next" / "events.jsonl"
    start, *others = log.read_text(encoding="utf-8").splitlines(keepends=True)
    event = json.loads(start)
    event["plan"]["model"]["base"] = str(runs / "good" / "artifact")
    log.write_text(json.dumps(event) + "\n" + "".join(others), encoding="utf-8")
    parents = {run.path.name: run.parent for run in read_runs.read_runs(runs)}
    assert parents == {"good": "", "bad": "", "next": str(runs / "good")}


def test_the_next_iteration_is_shown_with_its_folder_and_its_parent(
    tunesmith: Tunesmith, runs: Path
) -> None:
    shutil.copytree(runs / "good", runs / "second" / "run")
    log = runs / "second" / "run" / "events.jsonl"
    start, *others = log.read_text(encoding="utf-8").splitlines(keepends=True)
    event = json.loads(start)
    event["plan"]["lineage"] = {"parent": str(runs / "good")}
    log.write_text(json.dumps(event) + "\n" + "".join(others), encoding="utf-8")
    done = tunesmith("runs", runs)
    assert done.exit_code == 0, done.output
    assert f"second{os.sep}run starts from good" in done.output
    assert [line for line in done.output.splitlines() if line.startswith(f"second{os.sep}run  ")]


def test_the_tree_shows_each_run_below_the_run_that_it_starts_from(
    tunesmith: Tunesmith, runs: Path
) -> None:
    """A chain of two runs after ``good``, whose ``technique.from`` names the run or its adapter."""
    for name, parent in (("a-third", "second"), ("second", "good/adapter")):
        shutil.copytree(runs / "good", runs / name)
        log = runs / name / "events.jsonl"
        start, *others = log.read_text(encoding="utf-8").splitlines(keepends=True)
        event = json.loads(start)
        event["plan"]["technique"]["from"] = str(runs / parent)
        log.write_text(json.dumps(event) + "\n" + "".join(others), encoding="utf-8")
    done = tunesmith("runs", runs, "--tree")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("good "))
    assert lines[first + 1].startswith("  second ") and lines[first + 2].startswith("    a-third ")
    assert "starts from" not in done.output
    listed = tunesmith("runs", runs, "--tree", "--grep", "a-third").output
    assert any(line.startswith("a-third ") for line in listed.splitlines())


def test_deleting_needs_a_yes(tunesmith: Tunesmith, runs: Path) -> None:
    refused = tunesmith("runs", "--delete", runs / "bad")
    assert refused.exit_code == 2 and "--yes" in refused.stderr
    assert tunesmith("runs", "--delete", runs / "bad", "--delete", runs, "--yes").exit_code == 2
    assert (runs / "bad").is_dir()
    assert tunesmith("runs", "--delete", runs / "bad", "--yes").exit_code == 0
    assert not (runs / "bad").exists() and (runs / "good").is_dir()


def test_a_run_in_use_is_not_deleted(tunesmith: Tunesmith, runs: Path) -> None:
    with lock(runs / "bad"):
        assert tunesmith("runs", "--delete", runs / "bad", "--yes").exit_code == 2
    assert (runs / "bad").is_dir()


def test_only_the_ends_of_logs_are_read(runs: Path) -> None:
    """200 runs with long logs are read in a moment."""
    for number in range(200):
        folder = runs / f"copy-{number}"
        folder.mkdir()
        for name in ("lock", "run.toml"):
            shutil.copy(runs / "good" / name, folder)
        os.link(runs / "good" / "events.jsonl", folder / "events.jsonl")
    lines = (runs / "good" / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    with (runs / "good" / "events.jsonl").open("w", encoding="utf-8") as file:
        file.writelines([lines[0], *(["x" * 999 + "\n"] * 2_000), lines[-1]])  # not JSON: not read
    started = time.monotonic()
    found = read_runs.read_runs(runs)
    assert len(found) == 202 and {run.status for run in found} == {"ok", "failed"}
    assert time.monotonic() - started < 5
