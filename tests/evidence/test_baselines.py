"""Baselines alone: they are measured, nothing is trained, and a resumed run reuses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.python.bench import LISTENERS, ZERO_SHOT, Bench, catalog_of, offering, plugin

from tunesmith.errors import RunStopped
from tunesmith.events import BaselineChosen, Event, RunStarted, TrainingStarted
from tunesmith.execution import execute
from tunesmith_evidence.baselines import list_baseline_overrides, list_baselines, measure_baselines

CLASSIFIER = replace(ZERO_SHOT, name="cheap", solution="classifier", cost=5, needs_model=False)
CHANGES: dict[str, Any] = {"baselines": {"use": ["zero-shot", "cheap"], "rows": 0}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, catalog_of(cheap=offering("baselines", CLASSIFIER)))


def test_the_run_is_continued_by_its_training(bench: Bench) -> None:
    plan, folder = bench.plan(**CHANGES), bench.folder()
    report = measure_baselines(plan, bench.catalog, folder)
    assert (report.status, report.training_started) == ("stopped", {})
    baselines = list_baselines(report)
    assert [baseline.chosen.baseline for baseline in baselines] == ["cheap", "zero-shot"]
    test = report.data.test  # type: ignore[union-attr]
    assert [baseline.measured and baseline.measured.n for baseline in baselines] == [test, test]
    assert baselines[0].to_json()["n"] == test and baselines[0].seconds >= 0
    assert baselines[0].measured and baselines[0].to_json()["units"] == baselines[0].measured.units

    seen: list[Event] = []
    LISTENERS.append(seen.append)
    try:
        finished = execute.run(plan, bench.catalog, folder, resume=True)
    finally:
        LISTENERS.remove(seen.append)
    assert finished.status == "ok"
    assert [event for event in seen if isinstance(event, TrainingStarted)]
    assert not [event for event in seen if isinstance(event, BaselineChosen)]
    assert {model for model, _, _ in finished.measured} == {"cheap", "zero-shot", "tuned"}


def test_the_training_is_predicted_where_it_happens(bench: Bench) -> None:
    """Baselines alone print no forecast of a training, and the run that goes on is reviewed."""
    (bench.root / "base" / "config.json").write_text('{"width": 3}', encoding="utf-8")
    reviews: list[Any] = []
    reviewer = plugin(review_model=lambda review: reviews.append(review) or [])
    catalog = catalog_of(cheap=offering("baselines", CLASSIFIER), reviewer=reviewer)
    bench.catalog = catalog
    plan, folder = bench.plan(**CHANGES), bench.folder()
    seen: list[Event] = []
    LISTENERS.append(seen.append)
    try:
        measure_baselines(plan, catalog, folder)
        assert reviews == []
        execute.run(plan, catalog, folder, resume=True)
    finally:
        LISTENERS.remove(seen.append)
    assert len(reviews) == 1
    assert [e.trains for e in seen if isinstance(e, RunStarted)] == [False, True]


def test_a_baselines_that_was_stopped_is_no_finished_baselines(bench: Bench) -> None:
    offer = replace(CLASSIFIER, build=_Stopping)
    catalog = catalog_of(cheap=offering("baselines", offer))
    bench.catalog = catalog
    with pytest.raises(RunStopped, match="a signal"):
        measure_baselines(bench.plan(**CHANGES), catalog, bench.folder())


class _Stopping:
    def __init__(self, options: Any) -> None:
        pass

    def variants(self, task: Any) -> Any:
        raise RunStopped("a signal")


def test_overrides() -> None:
    assert list_baseline_overrides(60, "2m", ["linear", "nearest"]) == [
        "baselines.rows=60", 'baselines.budget="2m"', 'baselines.use=["linear", "nearest"]',
    ]  # fmt: skip
    assert list_baseline_overrides(0, None, []) == [
        "baselines.rows=0",
        'baselines.budget="100000h"',
    ]
