"""Times left of phases, trainings and runs."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from tunesmith.events import (
    BaselineChosen,
    DataLoaded,
    Event,
    Forecast,
    Measured,
    ModelResolved,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.testing import sample_event
from tunesmith_plugins.reporters.console.progress import (
    SETTLED,
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


BEFORE = [
    sample_event(RunStarted, plan={"baselines": {"rows": 50}}),
    sample_event(DataLoaded, test=100),
    sample_event(Forecast, seconds=[50.0, 150.0]),
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
    run = run_of(*BEFORE)
    assert run.part == "baselines" and math.isnan(run.seconds_left(0.0, 0.0))
    # A baseline that takes no time says nothing about the others, which are measured on 50 rows.
    run.add(MAJORITY, 0.0)
    assert run.seconds_left(0.0, math.nan) == 50 * 0.5 + 50 * 2.0 + 100.0
    run.add(sample_event(PhaseStarted, phase="zero-shot: exact-match"), 0.0)
    assert run.seconds_left(5.0, math.nan) == 20.0 + 50 * 2.0 + 100.0
    assert run.seconds_left(5.0, 33.0) == 33.0 + 50 * 2.0 + 100.0
    # The tuned model answers twice the rows in twice 10 s.
    run.add(ZERO_SHOT, 0.0)
    assert run.seconds_left(0.0, math.nan) == 50 * 2.0 + 100.0 + 20.0
    run.add(sample_event(TrainingStarted), 0.0)
    assert run.part == "training" and run.seconds_left(0.0, 30.0) == 30.0 + 20.0
    assert run.seconds_left(10.0, math.nan) == 90.0 + 20.0, "before the first step"
    run.add(sample_event(TrainingFinished), 0.0)
    assert run.part == "evaluation" and run.seconds_left(0.0, math.nan) == 20.0
    run.add(sample_event(PhaseStarted, phase="tuned: sample"), 0.0)
    assert [run.seconds_left(5.0, left) for left in (math.nan, 8.0)] == [15.0, 8.0]
    run.add(sample_event(Measured), 0.0)
    assert run.seconds_left(0.0, 0.0) == 0.0


def test_a_run_without_a_training_has_the_time_of_its_baselines() -> None:
    baselines = sample_event(RunStarted, plan={"baselines": {"rows": 50}}, trains=False)
    run = run_of(baselines, BEFORE[1], *BEFORE[3:], MAJORITY, ZERO_SHOT)
    assert run.seconds_left(0.0, math.nan) == 50 * 2.0


def test_the_evaluation_of_a_resumed_run_has_the_time_of_its_phase() -> None:
    """The baselines were measured by an earlier process, whose times are not known."""
    run = run_of(*BEFORE[:4], sample_event(TrainingStarted), sample_event(TrainingFinished))
    run.add(sample_event(PhaseStarted, phase="tuned: exact-match"), 0.0)
    assert math.isnan(run.seconds_left(5.0, math.nan)) and run.seconds_left(5.0, 60.0) == 60.0
    assert run.share(60.0, 0.0) == 0.99


def test_stages_to_come_are_in_the_time_left() -> None:
    run = run_of(*BEFORE, ZERO_SHOT)
    run.stages = ["a", "b"]
    run.add(sample_event(TrainingStarted, stage="a"), 1_000.0)
    assert run.seconds_left(1_010.0, 5.0) == 90.0 + 20.0
    assert run.seconds_left(1_099.0, 5.0) == 5.0 + 20.0
    run.add(sample_event(TrainingFinished, stage="a"), 1_100.0)
    run.add(sample_event(TrainingStarted, stage="b"), 1_100.0)
    assert run.seconds_left(1_110.0, 5.0) == 5.0 + 20.0


def test_the_parts_of_a_run_have_names() -> None:
    parts, run = [], RunProgress(0.0)
    assert run.part == ""
    for event in (*BEFORE[:2], BEFORE[3], sample_event(RunFinished)):
        run.add(event, 0.0)
        parts.append(run.part)
    assert parts == ["data", "data checks", "baselines", ""]


def test_the_share_of_a_run_never_falls() -> None:
    run = run_of(*BEFORE)
    assert run.share(10.0, math.nan) == 0.0
    assert [run.share(10.0, 10.0), run.share(11.0, 99.0), run.share(12.0, math.nan)] == [0.5] * 3
    assert run.share(30.0, 10.0) == 0.75


def test_the_stages_are_the_tables_that_can_be_skipped() -> None:
    table = {"use": "x", "a": {"skip": False}, "b": {"skip": True}, "adapter": {"rank": 8}}
    assert find_stages({"technique": table}) == ["a"]
    assert find_stages({}) == [] and find_stages({"technique": ["odd"]}) == []
    run = run_of(sample_event(TrainingStarted, stage="new"))
    assert run.stages == ["new"]
