"""The benchmark of launchers: what it reads from a run, and a launcher that fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from tests.benchmarks.launchers import Case, list_cases, measure, read_timing, render_table

EVENTS = """
import json, os, sys, time
os.mkdir(sys.argv[1])
with open(sys.argv[1] + "/events.jsonl", "w") as log:
    for step in range(4):
        event = {"event": "step-finished", "time": time.time(), "seconds": 0.5, "tokens": 10}
        print(json.dumps(event), file=log)
"""


def run(code: str, out: str) -> list[str]:
    return [sys.executable, "-c", code, out]


def test_the_times_of_a_run_are_read_without_its_first_steps(tmp_path: Path) -> None:
    steps = [(101.0, 9.0, 1), (102.0, 9.0, 1), (103.0, 0.1, 20), (104.0, 0.3, 20), (105.0, 0.2, 20)]
    lines = [
        json.dumps({"event": "step-finished", "time": t, "seconds": s, "tokens": n})
        for t, s, n in steps
    ]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, json.dumps({"event": "other"})]))
    timing = read_timing(tmp_path / "events.jsonl", began=100.0, ended=110.0)
    assert (timing.first_step, timing.whole, timing.step) == (1.0, 10.0, 0.2)
    assert timing.tokens_per_second == pytest.approx(100.0)


def test_a_launcher_that_fails_has_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    cases = [
        Case("tunesmith run", 1, lambda out: run(EVENTS, out)),
        Case("fails", 2, lambda out: run("raise SystemExit('no | cluster')", out)),
    ]
    found = measure(cases, tmp_path, rounds=2, environment=os.environ)
    assert len(found["tunesmith run|1"]) == 2 and "exit code 1: no | cluster" in found["fails|2"]
    lines = render_table(found).splitlines()
    assert lines[2].startswith("| tunesmith run | 1 | ") and lines[2].endswith(
        "| +0.0 | 500.0 | 20 |"
    )
    assert lines[3].startswith("| fails | 2 | exit code 1: no / cluster")
    without = render_table({"works|1": found["tunesmith run|1"]})
    assert without.endswith(" | - | 500.0 | 20 |")
    assert {line.count("|") for line in lines} == {8}


def test_slurm_is_measured_only_on_a_cluster() -> None:
    found = {case.launcher for case in list_cases({})}
    assert {"tunesmith run", "torchrun", "torchrun, sharded"} <= found and "slurm" not in found
    assert "slurm" in {case.launcher for case in list_cases({"SLURM_CONF": "slurm.conf"})}
