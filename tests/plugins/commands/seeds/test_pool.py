"""Pooling seeds: the mean of each row against the baseline, and the spread of the seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunesmith.events import Measured
from tunesmith_evidence.statistics import paired_difference
from tunesmith_plugins.commands.seeds.pool import PooledSeeds, SeedRun, pool_seeds


def measured(folder: Path, model: str, values: Sequence[float], *, higher: bool = True) -> Measured:
    lines = [{"row": n, "right": {"value": v, "weight": 1.0}} for n, v in enumerate(values)]
    path = f"{model}.jsonl"
    (folder / path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Measured(
        model=model, evaluator="e", metric="right", value=0.0, low=0.0, high=0.0, n=len(values),
        higher_is_better=higher, seconds=0.0, records=path,
    )  # fmt: skip


def pool(
    folder: Path, baseline: Sequence[float], *seeds: Sequence[float], higher: bool = True
) -> PooledSeeds:
    runs = [
        SeedRun(n, folder, measured(folder, f"seed-{n}", values, higher=higher))
        for n, values in enumerate(seeds)
    ]
    return pool_seeds(runs, measured(folder, "baseline", baseline, higher=higher), folder, 0.95)


def test_the_pooled_difference_is_that_of_the_means(tmp_path: Path) -> None:
    baseline = [1.0, 0.0] * 50
    seeds = [[1.0] * 100, [1.0] * 90 + [0.0] * 10, [1.0] * 80 + [0.0] * 20]
    found = pool(tmp_path, baseline, *seeds)
    assert found.by_seed == pytest.approx([0.5, 0.4, 0.3])
    assert found.spread == pytest.approx(0.1)
    means = [sum(row) / 3 for row in zip(*seeds, strict=True)]
    assert found.pooled == paired_difference(baseline, means)
    assert found.outcome == "better"
    assert pool(tmp_path, baseline, *seeds, higher=False).outcome == "worse"


def test_seeds_that_disagree_are_unclear(tmp_path: Path) -> None:
    baseline = [1.0] * 50 + [0.0] * 50
    seeds = [[1.0] * 100, [1.0] * 100, [1.0] * 49 + [0.0] * 51]
    found = pool(tmp_path, baseline, *seeds)
    assert found.pooled.low > 0 and min(found.by_seed) < 0
    assert found.outcome == "unclear"
