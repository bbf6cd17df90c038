"""TensorBoard's own reader finds what a run reported, also after faults and a resume."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tunesmith
from tunesmith.events import Event, Measured, RunFinished, RunStarted, StepFinished
from tunesmith.storage import RunFolder
from tunesmith.testing import full_disk, sample_event, sample_run, send_events
from tunesmith_evidence.tracking import TrackedRun
from tunesmith_tensorboard import reporter
from tunesmith_tensorboard.reporter import TensorboardOptions, TensorboardTracker

README = Path(__file__).parents[1] / "README.md"
SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b"


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def texts(events: EventAccumulator, name: str) -> str:
    found = events.Tensors(f"{name}/text_summary")
    return b"".join(found[-1].tensor_proto.string_val).decode()


def send(boards: Path, run: Path, events: Iterable[Event]) -> list[str]:
    """Send events like a run does; return the problems that became warnings."""
    run.mkdir(exist_ok=True)
    options = TensorboardOptions(folder=str(boards), wait=2)
    return send_events(lambda: reporter.build(options, RunFolder(run)), events)


def test_the_readme_runs_and_its_board_is_read_back(readme_run_file: Path, tmp_path: Path) -> None:
    options = {"technique.max_steps": 4, "baselines.use": ["majority"]}
    run = tunesmith.run(readme_run_file, set=options)
    assert not [f.message for f in run.report.findings if "tensorboard" in f.message]
    (board,) = (tmp_path / "tensorboard").glob(f"{run.path.name}-*")
    events = read(board)
    points = {point.step: point.value for point in events.Scalars("train/loss")}
    assert points == pytest.approx({step.step: step.loss for step in run.report.steps_of("")})
    verdict = run.report.verdict
    assert texts(events, "verdict") == verdict["word"] and verdict["word"] in texts(events, "card")
    for name, found in verdict["comparisons"].items():
        prefix = f"paired/{verdict['metric']}/tuned-minus-{name}"
        for part in ("difference", "low", "high", "n"):
            (point,) = events.Scalars(f"{prefix}/{part}")
            assert point.value == pytest.approx(found[part])
    assert verdict["comparisons"]
    for measured in run.report.tuned:
        label = run.report.metric_label(measured.evaluator, measured.metric)
        (point,) = events.Scalars(f"test/{label}/tuned/low")
        assert point.value == pytest.approx(measured.low)


def test_a_resumed_run_continues_in_its_folder(tmp_path: Path) -> None:
    def steps(*numbers: int) -> list[Event]:
        return [sample_event(StepFinished, step=n, loss=1 / n, metrics={}) for n in numbers]

    started = sample_event(RunStarted, plan={"token": SECRET, "technique": {"use": "a|b"}})
    state = random.getstate()
    boards = tmp_path / "boards"
    assert not send(boards, tmp_path / "run", [started, *steps(1, 2, 3)])
    score = sample_event(Measured)
    again = [replace(started, resumed=True), *steps(3, 4), score, sample_event(RunFinished)]
    for _ in range(2):
        assert not send(boards, tmp_path / "run", again)
    assert random.getstate() == state, "it draws random numbers of the run"
    (board,) = boards.iterdir()
    events = read(board)
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert len(events.Scalars("test/sample/tuned/value")) == 1
    assert len(events.Tensors("options/text_summary")) == 1
    assert "a\\|b" in texts(events, "options") and texts(events, "status") == "ok"
    files = [*board.glob("events*")]
    assert files and all(SECRET.encode() not in file.read_bytes() for file in files)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_becomes_a_warning(tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    with full_disk(20_000):
        problems = send(boards, tmp_path / "run", sample_run(steps=500))
    assert problems and all("File too large" in problem for problem in problems[:1])
    events = read(next(boards.iterdir()))
    assert events.Scalars("train/loss")[0].step == 1, "what was written before is lost"


def test_a_folder_that_cannot_be_created_becomes_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problems = send(tmp_path / "file", tmp_path / "run", sample_run())
    assert "NotADirectoryError" in problems[0] or "FileExistsError" in problems[0]


def test_a_hanging_file_system_does_not_delay_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(self: TensorboardTracker, run: TrackedRun) -> Mapping[str, int]:
        time.sleep(1e6)
        return {}

    monkeypatch.setattr(TensorboardTracker, "start", hang)
    before = time.perf_counter()
    (problem,) = send(tmp_path, tmp_path / "run", sample_run(steps=100))
    assert "does not respond" in problem and time.perf_counter() - before < 4
