"""Runs are ranked as far as their test rows allow."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from tunesmith.events import Measured, StepFinished, TrainingStarted
from tunesmith.execution.report import build_report
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_event, sample_run
from tunesmith_evidence.comparison import RunResults
from tunesmith_evidence.report.leaderboard import describe_size, rank_runs, read_loss_plots

KEY = ("exact", "exact")


def run_of(
    folder: Path, right: list[bool], *, prompts: str = "q", higher_is_better: bool = True
) -> RunResults:
    """Return a run whose tuned model got these rows right."""
    folder.mkdir(parents=True)
    lines = [
        {
            "row": n,
            "source": f"a:{n}",
            "prompt": f"{prompts}{n}",
            "expected": "yes",
            "exact": {"value": float(value), "weight": 1.0},
        }
        for n, value in enumerate(right)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "tuned.jsonl").write_text(text, encoding="utf-8")
    measured = sample_event(
        Measured,
        evaluator="exact",
        metric="exact",
        value=sum(right) / len(right),
        n=len(right),
        records="tuned.jsonl",
        higher_is_better=higher_is_better,
    )
    return RunResults(folder, build_report([measured]))


def first_right(count: int, of: int = 100) -> list[bool]:
    return [n < count for n in range(of)]


def test_runs_that_are_not_clearly_worse_share_the_rank_of_the_best(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / str(n), first_right(n)) for n in (40, 90, 88, 89)]
    places = rank_runs(runs, KEY)
    assert [(place.run.folder.name, place.is_first) for place in places] == [
        ("90", True), ("89", True), ("88", True), ("40", False),
    ]  # fmt: skip
    assert places[0].difference is None
    last = places[-1].difference
    assert last is not None and last.difference == pytest.approx(-0.5) and last.high < 0
    lower = [run_of(tmp_path / f"l{n}", first_right(n), higher_is_better=False) for n in (90, 40)]
    assert [place.run.folder.name for place in rank_runs(lower, KEY)] == ["l40", "l90"]


def test_the_more_runs_the_more_evidence_a_rank_needs(tmp_path: Path) -> None:
    """8 of 100 rows lost and none won: p = 0.008, which 7 comparisons raise above 0.05."""
    best, worse = first_right(90), first_right(82)
    runs = [run_of(tmp_path / "best", best), run_of(tmp_path / "worse", worse)]
    assert [place.is_first for place in rank_runs(runs, KEY)] == [True, False]
    runs += [run_of(tmp_path / f"same{n}", best) for n in range(6)]
    assert all(place.is_first for place in rank_runs(runs, KEY))


def test_the_ranking_does_not_depend_on_the_order_of_the_runs(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / str(n), first_right(30 + 20 * n)) for n in range(4)]
    expected = rank_runs(runs, KEY)
    assert all(rank_runs(order, KEY) == expected for order in permutations(runs))


def test_a_run_on_other_rows_has_no_rank(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", first_right(9, 10))]
    runs.append(run_of(tmp_path / "b", first_right(8, 10), prompts="other"))
    found = rank_runs(runs, KEY)[1]
    assert found.difference is None and not found.is_first


def test_losses_of_other_units_or_stages_are_in_other_plots(tmp_path: Path) -> None:
    runs = {}
    no, some = dict[str, float](), {"margin": 1.0}
    for name, metrics, stage in (
        ("a", no, ""), ("b", no, ""), ("c", some, ""), ("d", some, "policy"),
    ):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        (folder / "lock").touch()
        events = [
            sample_event(TrainingStarted, stage=stage),
            *(sample_event(StepFinished, step=n, stage=stage, metrics=metrics) for n in (1, 2)),
        ]
        lines = (encode_json(event.to_json()) + "\n" for event in events)
        (folder / "events.jsonl").write_text("".join(lines))
        runs[name] = RunResults(folder, build_report(events))
    plots = read_loss_plots(runs)
    assert [(stage, [*curves]) for stage, curves in plots] == [
        ("", ["a", "b"]), ("", ["c"]), ("policy", ["d"]),
    ]  # fmt: skip


def test_the_size_of_the_trained_model(tmp_path: Path) -> None:
    run = RunResults(tmp_path, build_report(sample_run()))
    assert describe_size(run) == "adapter"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_bytes(b"0" * 2048)
    assert describe_size(run) == "adapter 2.0 KiB"
