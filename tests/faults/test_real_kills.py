"""kill -9 in real training: at any moment, and the resumed run has identical results."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from tunesmith.execution import execute
from tunesmith.storage import Checkpoints, RunFolder, verify_folder
from tunesmith_torch.training import training_state

pytestmark = pytest.mark.processes

TECHNIQUES = ("full", "lora", "qlora")
GRID = list(itertools.product(TECHNIQUES, ("fp32", "bf16"), (True, False), (4096, 60)))
"""Technique, precision, packing, tokens of a micro-batch (about one or four for a batch)."""
FAST = [
    ("full", "fp32", True, 60),
    ("full", "bf16", False, 4096),
    ("full", "bf16", True, 60),
    ("lora", "fp32", False, 60),
    ("lora", "fp32", True, 4096),
    ("lora", "bf16", True, 60),
    ("lora", "bf16", False, 4096),
    ("full", "fp32", False, 4096),
]
LANES = [pytest.param(*cell, 4, id="-".join(map(str, cell))) for cell in FAST] + [
    pytest.param(*cell, 13, id="-".join(map(str, cell)) + "-long", marks=pytest.mark.faults)
    for cell in GRID
]


@pytest.mark.parametrize(("technique", "precision", "packing", "micro", "kills"), LANES)
def test_kill_at_random_moments(
    faults: Any,
    real: Any,
    workshop: Any,
    technique: str,
    precision: str,
    packing: bool,
    micro: int,
    kills: int,
) -> None:
    """Up to four kills in a run, then it is resumed to its end: artifact, state and log are equal.

    In between the report can always be read; at the end it equals report.json.
    """
    if not [e for e in entry_points(group="tunesmith") if e.name == technique]:
        pytest.skip(f"no plugin {technique} is installed")
    setting = real.Setting(technique, packing, micro, precision, epochs=3)
    file = workshop.run_file(setting)
    started = time.monotonic()
    complete = real.collect_results(workshop.complete_run(setting))
    duration = time.monotonic() - started
    if duration < 0.1:  # it was made earlier
        duration = 1.0
    rng = random.Random(f"{technique}{precision}{packing}{micro}{kills}")
    run = workshop.folder / "killed" / "run"
    done = inside = 0
    while done < kills:
        shutil.rmtree(run, ignore_errors=True)
        for _ in range(min(4, kills - done)):
            # Every other clock starts at this process's first checkpoint: else loading and
            # measuring, which take longer here than training, would get nearly all the kills.
            saved = done % 2 == 0
            seconds = rng.uniform(0, (0.2 if saved else 0.9) * duration)
            if _killed(real, file, run, seconds, saved=saved):
                done += 1
                inside += _is_inside(run)
                _report_is_valid(run)
        if not (run / "run.toml").exists() or execute.load_report(RunFolder(run)).status != "ok":
            end = real.run_command(*_run_or_resume(file, run))
            assert end.code == 0, end.output
        assert real.collect_results(run) == complete
        # Killed after its last event, a run is finished and has no report.json: this makes it.
        assert real.run_command("report", run, "--json").code == 0
        report = execute.load_report(RunFolder(run)).to_json()
        assert json.loads((run / "report.json").read_text()) == json.loads(json.dumps(report))
    faults.count_trials(f"kill -9 at a random moment of a run ({technique})", done)
    faults.count_trials(
        f"of these, between the first checkpoint and the last step ({technique})", inside
    )


def _run_or_resume(file: Path, run: Path) -> tuple[str | Path, ...]:
    if (run / "run.toml").exists():
        return "resume", run
    shutil.rmtree(run, ignore_errors=True)  # killed before the run folder was complete
    return "run", file, "--out", run


def _is_inside(run: Path) -> bool:
    """Return True if the run has a checkpoint and steps left to take."""
    steps = Checkpoints(run / "checkpoints").steps()
    report = execute.load_report(RunFolder(run)) if steps else None
    return report is not None and steps[-1] < report.training_started[""].steps


def _killed(real: Any, file: Path, run: Path, seconds: float, *, saved: bool) -> bool:
    before = len(real.events(run, "checkpoint-saved"))
    child = real.start_command(*_run_or_resume(file, run))
    while saved and child.running() and len(real.events(run, "checkpoint-saved")) <= before:
        time.sleep(0.001)
    deadline = time.monotonic() + seconds
    while child.running() and time.monotonic() < deadline:
        time.sleep(0.001)
    child.signal(signal.SIGKILL)
    end = child.end()
    assert end.code in (0, 2, -signal.SIGKILL), end.output
    assert end.code != 2 or "the run is finished" in end.output
    return bool(end.code == -signal.SIGKILL)


def _report_is_valid(run: Path) -> None:
    if not (run / "lock").is_file():
        return
    report = execute.load_report(RunFolder(run)).to_json()
    assert json.loads(json.dumps(report, allow_nan=False))["schema"] == "tunesmith.report/1"


def test_the_report_command_after_a_kill(faults: Any, real: Any, workshop: Any) -> None:
    """``report --json`` is valid after a kill at different steps."""
    setting = real.Setting()
    file = workshop.run_file(setting)
    for number in (1, 2, 3):
        run = workshop.folder / "killed" / "run"
        shutil.rmtree(run, ignore_errors=True)
        killed = real.run_command("run", file, "--out", run, prepare=real.kill_after_save(number))
        assert killed.code == real.KILLED
        shown = real.run_command("report", run, "--json")
        assert shown.code == 0, shown.output
        assert json.loads(shown.output)["training"]["steps"] == 2 * number
        assert json.loads(shown.output)["run"]["status"] == "unfinished"
    faults.count_trials("report read after kill -9", 3)


def test_an_outdated_report_is_written_again(faults: Any, real: Any, workshop: Any) -> None:
    """Stopped, resumed, finished, killed before report.json: the report must not say stopped."""
    run = workshop.copy(workshop.interrupted_run(real.Setting()))
    limited = real.run_command(
        "resume",
        run,
        prepare=real.before_call(training_state, "save_training_state", 1, _terminate),
    )
    assert limited.code == 143, limited.output
    stale = json.loads((run / "report.json").read_text())
    assert stale["run"]["status"] == "stopped"

    def die() -> None:
        import os

        os._exit(real.KILLED)

    ended = real.run_command(
        "resume", run, prepare=real.before_call(execute, "write_report", 1, die)
    )
    assert ended.code == real.KILLED, ended.output
    assert json.loads((run / "report.json").read_text()) == stale
    assert real.run_command("report", run, "--json").code == 0
    written = json.loads((run / "report.json").read_text())
    assert written["run"]["status"] == "ok"
    assert written == json.loads(json.dumps(execute.load_report(RunFolder(run)).to_json()))
    faults.count_trials("report.json written again after kill -9")


def _terminate() -> None:
    import os

    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "every", [9, pytest.param(1, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_kill_at_every_call_of_a_real_save(
    faults: Any, real: Any, workshop: Any, every: int
) -> None:
    """Including the safetensors file and the deletion of old checkpoints.

    There is a valid checkpoint at all times; after every ``every``-th kill the run is resumed.
    """
    setting = real.Setting()
    complete = real.collect_results(workshop.complete_run(setting))
    half = workshop.interrupted_run(setting)
    for number in itertools.count(1):
        run = workshop.copy(half)
        end = real.run_command("resume", run, prepare=real.kill_during_save(number))
        problems: list[str] = []
        newest = Checkpoints(run / "checkpoints", on_problem=problems.append).newest(recover=False)
        assert newest is not None
        assert newest.step in (4, 6)
        assert problems == []
        assert verify_folder(newest.path) == []
        if end.code == 0:
            break
        assert end.code == real.KILLED, end.output
        if number % every == 0:
            resumed = real.run_command("resume", run)
            assert resumed.code == 0, resumed.output
            assert real.collect_results(run) == complete
            assert not [path.name for path in run.rglob(".*")]
            faults.count_trials("run resumed to its end after a kill inside a save")
    assert newest.step == 6
    assert Checkpoints(run / "checkpoints").steps() == [4, 6]
    assert number > 25
    faults.count_trials("kill at every I/O call of a save in training", number - 1)
