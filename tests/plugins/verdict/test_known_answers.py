"""The benchmark of tasks with known answers: its rows, and that it continues where it stopped."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks import known_answers
from tests.benchmarks.known_answers import Task, count_right, list_tasks, run_task, write_run
from tests.benchmarks.known_rows import flip, generate_intents, shuffle_answers

from tunesmith import api

TASKS = list_tasks()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_rows_that_depend_on_the_seed_alone(name: str, tmp_path: Path) -> None:
    runs = [tmp_path / "first", tmp_path / "same", tmp_path / "other"]
    for folder, seed in zip(runs, (1, 1, 2), strict=True):
        write_run(TASKS[name], seed, folder)
    first, same, other = ((run / "train.jsonl").read_text(encoding="utf-8") for run in runs)
    assert first == same != other
    train, test = (
        [json.loads(line)["prompt"] for line in (runs[0] / f"{part}.jsonl").open(encoding="utf-8")]
        for part in ("train", "test")
    )
    assert len({*train, *test}) == len(train) + len(test)
    plan, _ = api.load_plan(runs[0] / "run.toml")
    assert plan.run.seed == 1


def test_flipped_answers_are_wrong_and_noise_says_nothing() -> None:
    rng = random.Random(0)
    rows = generate_intents(rng, 200)
    flipped = flip(rows, 0.2, rng)
    assert sum(a != b for a, b in zip(rows, flipped, strict=True)) == 40
    noise = shuffle_answers(rows, rng)
    assert Counter(answer for _, answer in noise) == Counter(answer for _, answer in rows)
    assert sum(a == b for a, b in zip(rows, noise, strict=True)) < 50


def test_a_finished_run_is_not_repeated_and_a_stopped_one_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    task = Task("few rows", ("YES",), lambda rng: ([("p", "a")], [("q", "a")]))

    def finish(run: Path) -> None:
        verdict = {"verdict": {"word": "YES"}}
        (run / "report.json").write_text(json.dumps(verdict), encoding="utf-8")

    def start(path: Path, out: Path) -> None:
        calls.append("run")
        out.mkdir()
        (out / "events.jsonl").touch()

    def resume(run: Path) -> None:
        calls.append("resume")
        finish(run)

    monkeypatch.setattr(known_answers.tunesmith, "run", start)
    monkeypatch.setattr(known_answers.tunesmith, "resume", resume)
    words: list[dict[str, Any]] = [run_task(task, 1, tmp_path) for _ in range(3)]
    assert calls == ["run", "resume"]
    assert words == [{}, {"word": "YES"}, {"word": "YES"}]


def test_an_undecided_run_counts_as_wrong() -> None:
    words = ["FINE-TUNE", "NOT ENOUGH EVIDENCE", "FINE-TUNE"]
    assert count_right(TASKS["house style"], words) == 2
    assert count_right(TASKS["few rows"], words) == 1
