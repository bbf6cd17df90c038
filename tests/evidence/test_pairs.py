"""Rows of two evaluations are joined by their numbers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.errors import IntegrityError
from tunesmith.events import Measured
from tunesmith.offers import Metric
from tunesmith.records import Completion
from tunesmith.testing import FakeTextModel
from tunesmith_evidence.pairs import read_pairs
from tunesmith_evidence.statistics import compare
from tunesmith_plugins.evaluators.classification.offer import CLASSIFICATION
from tunesmith_plugins.evaluators.text_overlap.offer import TEXT_OVERLAP


def evaluation(folder: Path, model: str, rows: list[dict[str, object]]) -> Measured:
    (folder / model).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Measured(
        model=model, evaluator="e", metric="right", value=0, low=0, high=0, n=len(rows),
        higher_is_better=True, seconds=0.0, records=model,
    )  # fmt: skip


def row(number: int | None, value: float, weight: float = 1.0, **more: object) -> dict[str, object]:
    numbered = {} if number is None else {"row": number}
    return {**numbered, "right": {"value": value, "weight": weight}, **more}


def test_rows_are_joined_by_number_in_any_order(tmp_path: Path) -> None:
    baseline = evaluation(tmp_path, "zero-shot", [row(5, 1.0), row(2, 0.0)])
    tuned = evaluation(tmp_path, "tuned", [row(n, n / 10) for n in range(8)])
    pairs = read_pairs(tmp_path, baseline, tuned)
    assert len(pairs) == 2
    assert (pairs.baseline_values, pairs.tuned_values) == ([0.0, 1.0], [0.2, 0.5])
    assert pairs.weights is None and pairs.groups is None


def test_weights_and_groups_are_those_of_the_common_rows(tmp_path: Path) -> None:
    baseline = evaluation(tmp_path, "zero-shot", [row(1, 1.0), row(2, 1.0)])
    tuned = evaluation(tmp_path, "tuned", [row(n, 0.0, n, group=f"g{n}") for n in (1, 2, 3)])
    pairs = read_pairs(tmp_path, baseline, tuned)
    assert pairs.weights == [1.0, 2.0] and pairs.groups == ["g1", "g2"]


def test_rows_without_numbers_are_joined_by_position(tmp_path: Path) -> None:
    """Evaluations of earlier versions have all rows in one order."""
    baseline = evaluation(tmp_path, "base", [row(None, 0.0), row(None, 1.0)])
    tuned = evaluation(tmp_path, "tuned", [row(0, 1.0), row(1, 0.0)])
    pairs = read_pairs(tmp_path, baseline, tuned)
    assert (pairs.baseline_values, pairs.tuned_values) == ([0.0, 1.0], [1.0, 0.0])


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    baseline = evaluation(tmp_path, "zero-shot", [row(0, 1.0)])
    tuned = evaluation(tmp_path, "tuned", [{"row": 0}])
    with pytest.raises(IntegrityError, match="tuned:1"):
        read_pairs(tmp_path, baseline, tuned)


LABELS = ("red", "green", "blue", "pink")
SAID = {"macro-f1": "", "bleu": " it is so", "chrf": " it is so"}
"""What follows a label: BLEU needs four words."""
JOINT = {
    metric.name: metric
    for offer in (CLASSIFICATION, TEXT_OVERLAP)
    for metric in offer.metrics
    if not metric.is_row_mean
}


def measured_jointly(
    folder: Path, label: str, metric: str, records: list[Completion], numbers: list[int]
) -> Measured:
    """Return an evaluation of some rows by a metric of all rows together, as the core writes it."""
    model = FakeTextModel(answers={f"q{n}": LABELS[n % 3] + SAID[metric] for n in range(40)})
    offer = CLASSIFICATION if metric == "macro-f1" else TEXT_OVERLAP
    built = offer.build(offer.config()).prepare(records)  # type: ignore[attr-defined]
    chosen = [records[n] for n in numbers]
    [found] = [m for m in built.measure(model, chosen) if m.metric == metric]
    assert found.counts is not None
    rows = [
        {
            "row": number,
            metric: {
                "value": found.values[place],
                "weight": 1.0 if found.weights is None else found.weights[place],
                "counts": dict(enumerate(found.counts[place])),
            },
        }
        for place, number in enumerate(numbers)
    ]
    return replace(evaluation(folder, label, rows), metric=metric)


@pytest.mark.parametrize("metric", sorted(JOINT))
def test_a_metric_of_all_rows_is_compared_on_the_rows_of_both(metric: str, tmp_path: Path) -> None:
    """One and the same model, on 20 of 40 rows and on all: it never differs from itself."""
    rng = random.Random(metric)
    records = [
        Completion(source=f"r:{n}", prompt=f"q{n}", completion=rng.choice(LABELS) + SAID[metric])
        for n in range(40)
    ]
    tuned = measured_jointly(tmp_path, "tuned", metric, records, [*range(40)])
    stale = 0
    for _ in range(10 if metric == "bleu" else 20):
        numbers = sorted(rng.sample(range(40), 20))
        part = measured_jointly(tmp_path, "part", metric, records, numbers)
        pairs = read_pairs(tmp_path, part, tuned, JOINT)
        assert len(pairs) == 20 and pairs.baseline_values == pairs.tuned_values
        before = read_pairs(tmp_path, part, tuned)
        stale += before.baseline_values != before.tuned_values
        found = compare(pairs.baseline_values, pairs.tuned_values, True, weights=pairs.weights)
        assert found.difference.value == 0 and found.outcome == "unclear"
    assert stale, "the stored contributions are those to the metric of other rows"


def test_without_counts_rows_of_other_sets_are_not_compared(tmp_path: Path) -> None:
    joint = Metric(name="right", higher_is_better=True, is_row_mean=False)
    baseline = evaluation(tmp_path, "zero-shot", [row(1, 1.0), row(2, 0.0)])
    tuned = evaluation(tmp_path, "tuned", [row(n, 0.0) for n in range(3)])
    assert len(read_pairs(tmp_path, baseline, tuned, {"right": joint})) == 0
    assert len(read_pairs(tmp_path, baseline, baseline, {"right": joint})) == 2
    computable = replace(joint, compute=lambda counts: counts[:, 0])
    assert len(read_pairs(tmp_path, baseline, tuned, {"right": computable})) == 0


def test_rows_that_count_for_one_model_alone_are_in_no_pair(tmp_path: Path) -> None:
    baseline = evaluation(tmp_path, "zero-shot", [row(1, 1.0, 0), row(2, 1.0), row(3, 0.5)])
    tuned = evaluation(tmp_path, "tuned", [row(1, 0.0), row(2, 0.0), row(3, 0.5, 0)])
    pairs = read_pairs(tmp_path, baseline, tuned)
    assert (pairs.baseline_values, pairs.tuned_values, pairs.weights) == ([1.0], [0.0], None)
    alone = evaluation(tmp_path, "other", [row(1, 1.0, 0), row(2, 1.0, 0)])
    assert len(read_pairs(tmp_path, alone, tuned)) == 0
