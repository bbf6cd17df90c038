"""Comparisons of runs: whether they may be compared, and their paired differences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.catalog import Catalog
from tunesmith.errors import UsageError
from tunesmith.events import Measured, RunStarted
from tunesmith.execution.report import build_report
from tunesmith.plugins import Selection, find_plugins
from tunesmith.storage import EventLog
from tunesmith.testing.sample_run import sample_run
from tunesmith_evidence.comparison import (
    RunResults,
    adjust_differences,
    compare_metrics,
    find_comparison_obstacles,
    find_row_metric,
    list_changed_rows,
    list_plan_differences,
    pair_rows,
    row_key,
)
from tunesmith_plugins.evaluators.exact_match import EXACT_MATCH

CATALOG = Catalog(find_plugins(Selection(allowed=frozenset())))


def results(
    folder: Path,
    values: list[float],
    *,
    prompts: list[str] | None = None,
    version: str = "1",
    options: dict[str, Any] | None = None,
) -> RunResults:
    """Return a run whose tuned model has these values, as the core writes them."""
    folder.mkdir()
    prompts = prompts or [f"q{n}" for n in range(len(values))]
    lines = [
        {
            "row": n,
            "source": f"a:{n}",
            "prompt": [["user", prompt]],
            "expected": "yes",
            "exact": {"value": value, "weight": 1.0},
        }
        for n, (prompt, value) in enumerate(zip(prompts, values, strict=True))
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "tuned.jsonl").write_text(text, encoding="utf-8")
    started = RunStarted(
        run="r",
        name="r",
        started="2026-01-01",
        plan={"evaluators": [{"use": "exact", **(options or {})}]},
        versions={},
        plugins=[],
    )
    mean = sum(values) / len(values)
    measured = Measured(
        model="tuned", evaluator="exact", metric="exact", value=mean, low=0, high=1,
        n=len(values), higher_is_better=True, seconds=0, records="tuned.jsonl",
        version=version,
    )  # fmt: skip
    return RunResults(folder, build_report([started, measured]))


def test_runs_that_were_scored_alike(tmp_path: Path) -> None:
    first = results(tmp_path / "a", [0.0] * 10)
    second = results(tmp_path / "b", [1.0] * 8 + [0.0] * 2)
    assert find_comparison_obstacles(first, second, CATALOG) == []
    (found,) = compare_metrics(first, second).values()
    assert (found.difference, found.won, found.lost, found.n) == (0.8, 8, 0, 10)
    assert found.p_value == pytest.approx(2 / 2**8)  # exact McNemar, 8 to 0
    assert found.outcome == "better" and found.is_clear
    assert [round(d.p_value_holm or 0, 6) for d in adjust_differences([found] * 8)] == [
        8 * 2 / 2**8
    ] * 8
    assert not adjust_differences([found] * 8)[0].is_clear
    assert len(list_changed_rows(first, second, ("exact", "exact"))) == 8


def test_rows_are_won_by_values_of_their_own(tmp_path: Path) -> None:
    """A part of a metric of all rows together differs also where the answers are the same."""
    first, second = (results(tmp_path / name, [0.0, 1.0]) for name in "ab")
    for run in (first, second):
        path = run.folder / "tuned.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line | {"bleu": line["exact"] | {"counts": {}}} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        joint = replace(run.measured["exact", "exact"], metric="bleu")
        run.measured["exact", "bleu"] = joint
    assert find_row_metric(first, second, ("exact", "bleu")) == ("exact", "exact")
    assert find_row_metric(first, second, ("exact", "exact")) == ("exact", "exact")
    del first.measured["exact", "exact"]
    assert find_row_metric(first, second, ("exact", "bleu")) is None


def test_what_is_clear_is_so_at_the_confidence_of_the_comparison(tmp_path: Path) -> None:
    """Six rows won and none lost: p is 0.031, enough for 95 %, too much for 99 %, and back."""
    first = results(tmp_path / "a", [0.0] * 10)
    second = results(tmp_path / "b", [1.0] * 6 + [0.0] * 4)

    def is_clear(confidence: float, together: int = 1) -> bool:
        (found,) = compare_metrics(first, second, confidence=confidence).values()
        return adjust_differences([found] * together)[0].is_clear

    assert [is_clear(0.95), is_clear(0.98)] == [True, False]
    assert [is_clear(0.95, 2), is_clear(0.9, 2)] == [False, True]


def test_each_obstacle_is_named(tmp_path: Path) -> None:
    first = results(tmp_path / "a", [0.0, 1.0])
    rows = results(tmp_path / "rows", [0.0, 1.0], prompts=["q0", "new"])
    assert find_comparison_obstacles(first, rows, CATALOG) == [
        "the test rows differ: 2 and 2 rows, 1 in both"
    ]
    options = results(tmp_path / "options", [0.0, 1.0], options={"ignore_case": True})
    assert find_comparison_obstacles(first, options, CATALOG) == [
        "the options of evaluator exact differ: ignore_case"
    ]
    version = results(tmp_path / "version", [0.0, 1.0], version="2")
    assert find_comparison_obstacles(first, version, CATALOG) == [
        "the versions of evaluator exact differ: 1 and 2"
    ]
    nothing = RunResults(tmp_path, build_report([]))
    assert find_comparison_obstacles(first, nothing, CATALOG) == [
        "the tuned models have no metric in common"
    ]
    with pytest.raises(UsageError, match="metric in common"):
        compare_metrics(first, nothing)


def test_default_options_are_those_of_a_run_file_that_names_them(tmp_path: Path) -> None:
    first = results(tmp_path / "a", [0.0, 1.0], options={"use": "exact-match"})
    defaults = EXACT_MATCH.config().model_dump(mode="json")
    for name, options in (("same", defaults), ("other", {**defaults, "ignore_case": True})):
        second = results(tmp_path / name, [0.0, 1.0], options={"use": "exact-match", **options})
        runs = [as_exact_match(run) for run in (first, second)]
        assert runs[0].report.started is not None
        runs[0].report.started.plan["evaluators"] = []
        expected = [] if name == "same" else ["ignore_case"]
        assert [
            reason.rpartition(": ")[2] for reason in find_comparison_obstacles(*runs, CATALOG)
        ] == expected


def as_exact_match(run: RunResults) -> RunResults:
    """Return the run as if it had been measured by ``exact-match``."""
    (measured,) = run.measured.values()
    renamed = replace(measured, evaluator="exact-match")
    assert run.report.started is not None
    return RunResults(run.folder, build_report([run.report.started, renamed]))


def test_rows_are_paired_by_content_wherever_they_stand(tmp_path: Path) -> None:
    first = results(tmp_path / "a", [1.0, 0.0, 0.0], prompts=["q", "r", "q"])
    second = results(tmp_path / "b", [0.0, 1.0, 1.0], prompts=["r", "q", "q"])
    pairs = pair_rows(first, second, "exact", "exact")
    assert pairs.baseline_values == [0.0, 1.0, 0.0] and pairs.tuned_values == [0.0, 1.0, 1.0]
    assert find_comparison_obstacles(first, second, CATALOG) == []


def test_rows_of_earlier_versions_are_known_by_their_source() -> None:
    assert row_key({"source": "a:1", "expected": "x"}) == "('a:1', 'x')"


def test_plans() -> None:
    first = {"run": {"name": "a", "seed": 1}, "technique": {"rank": 8, "old": 1}}
    second = {"run": {"name": "b", "seed": 1}, "technique": {"rank": 16}}
    assert list_plan_differences(first, second) == {
        "technique.rank": (8, 16),
        "technique.old": (1, None),
    }


def test_a_run_is_read_without_the_steps_of_its_training(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with EventLog(tmp_path / "events.jsonl") as log:
        for event in sample_run("m"):
            log.append({"time": 1795871984.26, **event.to_json()})
    found = RunResults.read(tmp_path)
    assert found.plan["technique"] == {"use": ["m"]}
    assert [*found.measured] == [("m", "m")]
    assert found.report.finished is not None and not found.report.steps
