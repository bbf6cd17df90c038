"""The live display in a real terminal of 80 columns."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast

import pytest

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
SCRIPT = """
import os, sys, time
from pathlib import Path
from tunesmith.events import *
from tunesmith.signals import StopSignalHandler
from tunesmith.testing import sample_event
from tunesmith_plugins.reporters.console.live import LiveReporter

def events():
    stages = {"supervised": {"skip": False}, "reward": {"skip": False}, "policy": {"skip": False}}
    yield sample_event(RunStarted, run="2026-11-28_0345_support_a1b2", plan={"technique": stages})
    yield sample_event(DataLoaded)
    yield sample_event(Forecast, seconds=[60.0, 90.0])
    yield sample_event(ModelResolved)
    variant = "a long variant of the prompt"
    for baseline in ("majority", "zero-shot"):
        yield sample_event(BaselineChosen, baseline=baseline, variant=variant)
    yield PhaseStarted(phase="zero-shot: exact-match", total=4000, unit="prompts")
    for done in range(0, 2001, 100):
        yield PhaseAdvanced(phase="zero-shot: exact-match", done=done)
    yield "phase"
    yield PhaseEnded(phase="zero-shot: exact-match", seconds=9.0)
    yield sample_event(Measured, model="zero-shot", metric="exact-match", seconds=4.0)
    for stage in ("supervised", "reward"):
        yield sample_event(TrainingStarted, stage=stage, details={})
        yield sample_event(TrainingFinished, stage=stage)
    yield sample_event(GateChecked, stage="reward", gate="accuracy", passed=True, message="fine")
    yield sample_event(TrainingStarted, stage="policy", steps=400)
    for step in range(1, 161):
        metrics = {"reward": step / 7, "kl": 0.01, "completion_length": 120.0}
        yield sample_event(
            StepFinished, stage="policy", step=step, steps=400, loss=9.0 / step, metrics=metrics
        )
        if step % 40 == 0:
            yield Monitored(stage="policy", step=step, metrics={"validation_loss": 8 / step},
            best=True)
    yield "training"

Path("pid").write_text(str(os.getpid()))
with StopSignalHandler(), LiveReporter(sys.stderr, Path("events.jsonl")) as live:
    for event in events():
        if isinstance(event, str):
            while not Path(f"after-{event}").exists():
                time.sleep(0.02)
        else:
            live.report(event)
            time.sleep(0.002)
"""


class Screen(Protocol):
    """A terminal: waits for a text, and says if its cursor is shown."""

    cursor: Callable[[], str]

    def __call__(self, text: str) -> list[str]: ...


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    """Run the script in a terminal; return a function that waits for a text on its screen."""
    (tmp_path / "live.py").write_text(SCRIPT)
    tmux = ["tmux", "-L", f"tunesmith-{os.getpid()}", "-f", "/dev/null"]
    removed = ("NO_COLOR", "CI", "TERM", "COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"LANG": "C.UTF-8", "TERM": "xterm-256color"}
    command = f"{sys.executable} live.py; echo ended; sleep 60"
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "80", "-y", "30", "-c", str(tmp_path), command],
        check=True,
        env=environment,
    )

    def wait_for(text: str) -> list[str]:
        deadline, shown = time.monotonic() + 60, ""
        while time.monotonic() < deadline:
            done = subprocess.run(
                [*tmux, "capture-pane", "-p"], capture_output=True, text=True, env=environment
            )
            shown = done.stdout
            if text in shown:
                return shown.rstrip().splitlines()
            time.sleep(0.1)
        raise AssertionError(f"{text!r} is not on the screen:\n{shown}")

    def is_cursor_shown() -> str:
        return subprocess.run(
            [*tmux, "display-message", "-p", "#{cursor_flag}"],
            capture_output=True, text=True, env=environment,
        ).stdout.strip()  # fmt: skip

    shown = cast("Screen", wait_for)
    shown.cursor = is_cursor_shown
    yield shown
    subprocess.run([*tmux, "kill-server"], env=environment, capture_output=True)


def test_a_phase_and_a_training_with_the_run_below(screen: Screen, tmp_path: Path) -> None:
    *_, phase, run, path = screen("2,000/4,000")
    assert phase[2:].startswith("zero-shot: exact-match") and " left" in phase
    assert run[2:].startswith("run: baselines")
    assert path.strip() == "○ supervised → ○ reward → ○ policy"
    (tmp_path / "after-phase").touch()
    *_, training, loss, validation, run, path = screen("step 160/400")
    assert "training policy" in training and " left" in training
    assert loss.strip().startswith("loss ") and "reward 22.857" in loss
    assert validation.strip().startswith("validation loss 0.050") and validation.endswith(
        "best 0.050"
    )
    assert run[2:].startswith("run: training") and "%" in run and "left" in run
    assert path.strip() == "✓ supervised → ✓ reward (gate passed) → ● policy"
    assert all("…" not in line for line in (training, loss, validation, run, path))
    (tmp_path / "after-training").touch()


def test_a_stop_signal_is_answered_above_the_display(screen: Screen, tmp_path: Path) -> None:
    """The display of five lines is redrawn below the answer, not over it."""
    (tmp_path / "after-phase").touch()
    screen("step 160/400")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
    screen("stopping after this step")
    time.sleep(1)  # the display is redrawn four times
    lines = screen("stopping after this step")
    answer = next(n for n, line in enumerate(lines) if "press Ctrl-C again to stop now" in line)
    assert "● policy" in lines[-1] and answer < len(lines) - 5
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
    assert screen("ended")[-1] == "ended"
    assert screen.cursor() == "1", "the cursor is hidden"
