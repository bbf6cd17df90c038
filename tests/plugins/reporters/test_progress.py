"""Times left of phases, trainings and runs."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.events import (
    BaselineChosen,
    DataLoaded,
    Event,
    Forecast,
    Measured,
    ModelResolved,
    PartEnded,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_event
from tunesmith_plugins.reporters.console.progress import (
    SETTLED,
    UNKNOWN,
    PhaseProgress,
    RunProgress,
    TrainingProgress,
    find_stages,
    restore_progress,
)


@pytest.mark.parametrize("slow_start", [1, 6, 40])
def test_the_time_left_settles_within_the_first_20th_of_a_phase(slow_start: float) -> None:
    """Also where the first row takes many times as long as the others."""
    rng, now, total = random.Random(3), 0.0, 400
    progress, ends = PhaseProgress(total, 0.0), []
    for done in range(1, total + 1):
        now += slow_start if done == 1 else rng.uniform(0.8, 1.2)
        progress.advance(done, now)
        ends.append(now + progress.seconds_left(now))
    assert all(math.isnan(end) for end in ends[: round(SETTLED * total) - 1])
    assert all(abs(end - now) < 0.1 * total for end in ends[round(SETTLED * total) :])


def test_a_phase_without_a_size_or_a_second_row_has_no_time_left() -> None:
    progress = PhaseProgress(None, 0.0)
    progress.advance(5, 1.0)
    assert math.isnan(progress.seconds_left(2.0))
    progress = PhaseProgress(10, 0.0)
    assert math.isnan(progress.seconds_left(1.0))
    progress.advance(8, 1.0)
    assert math.isnan(progress.seconds_left(1.0)) and math.isnan(progress.seconds_per_unit(9.0))
    progress.advance(9, 3.0)
    assert progress.seconds_left(3.0) == 2.0


def step(number: int, seconds: float, steps: int = 100) -> StepFinished:
    return sample_event(StepFinished, step=number, steps=steps, seconds=seconds)


def test_the_first_step_of_a_training_is_skipped_of_its_speed() -> None:
    training = TrainingProgress()
    training.add(step(1, 30.0))
    assert training.seconds_left == pytest.approx(99 * 30.0)
    training.add(step(2, 1.0))
    assert training.seconds_left == pytest.approx(98.0)
    assert training.tokens_per_second == pytest.approx(1000)


def test_checkpoints_count_in_the_time_left() -> None:
    training = TrainingProgress()
    for number in range(1, 51):
        training.add(step(number, 1.0))
        if number % 10 == 0:
            training.add_overhead(20.0)
    assert training.seconds_left == pytest.approx(50 * 3.0)
    training.add_overhead(math.nan)
    assert training.seconds_left == pytest.approx(50 * 3.0)


def test_a_training_that_is_not_resumed_reads_no_log() -> None:
    assert restore_progress(Path("/nonexistent"), sample_event(TrainingStarted)).losses == []
    resumed = sample_event(TrainingStarted, first_step=3)
    assert restore_progress(Path("/nonexistent"), resumed).losses == []


def run_of(*events: Event) -> RunProgress:
    run = RunProgress(0.0)
    for event in events:
        run.add(event, 0.0)
    return run


FORECAST = sample_event(
    Forecast,
    parts={"baselines": [30.0, 400.0], "training": [50.0, 150.0], "evaluation": [10.0, 60.0]},
)


def near(low: float, high: float) -> object:
    return pytest.approx((low, high))


BEFORE = [
    sample_event(RunStarted, plan={"baselines": {"rows": 50}}),
    sample_event(DataLoaded, test=100),
    FORECAST,
    sample_event(ModelResolved),
    # Classifiers, and prompts that took 0.5 s and 2 s for each of 40 rows.
    *[
        sample_event(
            BaselineChosen,
            baseline=name,
            variant="v",
            solution=solution,
            variants=[{"name": "v", "score": 0.5, "rows": 40, "seconds": 40 * seconds}],
        )
        for name, solution, seconds in (
            ("majority", "classifier", 0.0),
            ("zero-shot", "prompt", 0.5),
            ("shots", "prompt", 2.0),
        )
    ],
]
MAJORITY = sample_event(Measured, model="majority", n=100, seconds=0.0)
ZERO_SHOT = sample_event(Measured, model="zero-shot", n=50, seconds=10.0)


def test_the_time_of_a_run_is_that_of_its_parts() -> None:
    """First as forecast, then from the speeds of this run."""
    run = run_of(*BEFORE[:4])
    assert run.seconds_left(0.0, math.nan) == near(30 + 50 + 10, 400 + 150 + 60)
    assert run.seconds_left(20.0, math.nan) == near(10 + 50 + 10, 380 + 150 + 60)
    assert run.forecast == near(90, 610)
    # Two baselines that ask the model take 0.5 s and 2 s for each of 50 rows.
    run = run_of(*BEFORE, MAJORITY)
    assert run.seconds_left(0.0, math.nan) == near(0.8 * 125 + 60, 1.3 * 125 + 210)
    run.add(sample_event(PhaseStarted, phase="zero-shot: exact-match"), 0.0)
    assert run.seconds_left(5.0, math.nan) == near(0.8 * 120 + 60, 1.3 * 120 + 210)
    assert run.seconds_left(5.0, 33.0) == near(0.8 * 133 + 60, 1.3 * 133 + 210)
    # The tuned model answers twice the rows in twice 10 s.
    run.add(ZERO_SHOT, 0.0)
    assert run.seconds_left(0.0, math.nan) == near(80 + 50 + 8, 130 + 150 + 28)
    run.add(sample_event(PartEnded, part="baselines"), 0.0)
    assert run.part == "training" and run.seconds_left(10.0, math.nan) == near(48, 168)
    run.add(sample_event(TrainingStarted), 20.0)
    assert run.seconds_left(20.0, math.nan) == near(38, 158), "loading is part of the training"
    assert run.seconds_left(20.0, 30.0) == near(24 + 8, 39 + 28)
    run.add(sample_event(TrainingFinished), 0.0)
    assert run.part == "evaluation" and run.seconds_left(0.0, math.nan) == near(8, 28)
    run.add(sample_event(PhaseStarted, phase="tuned: sample"), 0.0)
    assert run.seconds_left(5.0, math.nan) == near(0.8 * 15, 1.3 * 15)
    assert run.seconds_left(5.0, 8.0) == near(6.4, 10.4)


def test_a_run_never_seems_to_be_over_before_a_row_is_counted() -> None:
    """A phase of 20 s that has not counted a row after 59 s does not end in a second."""
    run = run_of(*BEFORE, ZERO_SHOT, sample_event(TrainingFinished))
    run.add(sample_event(PhaseStarted, phase="tuned: sample"), 600.0)
    for elapsed in range(1, 600):
        low, high = run.seconds_left(600.0 + elapsed, math.nan)
        assert low >= 0.8 * 5 and high >= 1.3 * elapsed / 2
        assert run.share(600.0 + elapsed, (low, high)) < 0.99


def test_an_overdue_part_without_a_count_has_a_time_left() -> None:
    run = run_of(*BEFORE[:4])
    for elapsed in range(1, 3_000):
        low, high = run.seconds_left(float(elapsed), math.nan)
        assert 60 <= low <= high and high >= elapsed / 2


def test_a_resumed_run_continues_with_the_times_of_its_earlier_processes(tmp_path: Path) -> None:
    """Its bar is where it was, and its forecast is that of the start."""
    steps = [sample_event(StepFinished, step=n, steps=100, seconds=1.0) for n in range(1, 51)]
    phase = sample_event(PhaseEnded, phase="zero-shot: sample", seconds=60.0)
    stop = sample_event(RunFinished, status="stopped")
    log = [*BEFORE, ZERO_SHOT, phase, sample_event(TrainingStarted), *steps, stop]
    resumed = replace(BEFORE[0], resumed=True)  # type: ignore[type-var]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(encode_json(e.to_json()) + "\n" for e in (*log, resumed)))
    run = RunProgress(0.0)
    run.add(resumed, 5_000.0)
    run.restore(path, 5_000.0)
    assert run.started == 5_000.0 - 110.0 and run.part == "data"
    share = run.share(5_000.0, run.seconds_left(5_000.0, math.nan))
    assert 0.5 < share < 0.7
    for event in (*BEFORE[1:2], BEFORE[3], sample_event(TrainingStarted, first_step=50, steps=100)):
        run.add(event, 5_000.0)
    assert run.seconds_left(5_000.0, math.nan) == near(25 + 8, 75 + 28)


def test_a_run_without_a_training_has_the_time_of_its_baselines() -> None:
    baselines = sample_event(RunStarted, plan={"baselines": {"rows": 50}}, trains=False)
    run = run_of(baselines, BEFORE[1], *BEFORE[3:], MAJORITY, ZERO_SHOT)
    assert run.seconds_left(0.0, math.nan) == near(80, 130)


def test_without_a_forecast_the_time_is_that_of_the_phase_or_unknown() -> None:
    run = run_of(*BEFORE[:2], sample_event(ModelResolved), sample_event(TrainingFinished))
    run.add(sample_event(PhaseStarted, phase="tuned: exact-match"), 0.0)
    assert math.isnan(run.seconds_left(5.0, math.nan)[0])
    assert run.seconds_left(5.0, 60.0) == near(48, 78)
    assert run.share(60.0, (0.0, 0.0)) == 0.99


def test_stages_to_come_are_in_the_time_left() -> None:
    run = run_of(*BEFORE, ZERO_SHOT)
    run.stages = ["a", "b"]
    run.add(sample_event(TrainingStarted, stage="a"), 1_000.0)
    assert run.seconds_left(1_010.0, 5.0) == near(40 + 8, 140 + 28)
    run.add(sample_event(TrainingFinished, stage="a"), 1_100.0)
    run.add(sample_event(TrainingStarted, stage="b"), 1_100.0)
    assert run.seconds_left(1_110.0, 5.0) == near(4 + 8, 6.5 + 28)


def test_the_parts_of_a_run_have_names() -> None:
    parts, run = [], RunProgress(0.0)
    assert run.part == ""
    for event in (*BEFORE[:2], BEFORE[3], sample_event(RunFinished)):
        run.add(event, 0.0)
        parts.append(run.part)
    assert parts == ["data", "data checks", "baselines", ""]


def test_the_share_of_a_run_never_falls() -> None:
    run = run_of(*BEFORE)
    assert run.share(10.0, UNKNOWN) == 0.0
    shares = [run.share(10.0, (5.0, 15.0)), run.share(11.0, (90.0, 99.0)), run.share(12.0, UNKNOWN)]
    assert shares == [0.5] * 3
    assert run.share(30.0, (5.0, 15.0)) == 0.75


def test_the_stages_are_the_tables_that_can_be_skipped() -> None:
    table = {"use": "x", "a": {"skip": False}, "b": {"skip": True}, "adapter": {"rank": 8}}
    assert find_stages({"technique": table}) == ["a"]
    assert find_stages({}) == [] and find_stages({"technique": ["odd"]}) == []
    run = run_of(sample_event(TrainingStarted, stage="new"))
    assert run.stages == ["new"]
