"""Accuracy and macro F1 against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import f1_score

from tunesmith.contracts import Measurement, RunContext
from tunesmith.errors import DataError
from tunesmith.execution.measure_part import measure_part
from tunesmith.records import Completion, Record
from tunesmith.statistics import mean_interval
from tunesmith.testing.examples import COMPLETIONS, LABELS
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.classification.evaluator import measure_macro_f1
from tunesmith_plugins.evaluators.classification.offer import (
    CLASSIFICATION,
    ClassificationOptions,
)


def measure(
    expected: Sequence[str], answers: Sequence[str], **options: Any
) -> tuple[Measurement, Measurement]:
    records: list[Record] = [
        Completion(source=f"a:{n}", prompt=f"q{n}", completion=label)
        for n, label in enumerate(expected)
    ]
    model = FakeTextModel(answers={f"q{n}": answer for n, answer in enumerate(answers)})
    options = {"max_new_tokens": 50, **options}
    accuracy, f1 = CLASSIFICATION.build(ClassificationOptions(**options)).measure(model, records)
    return accuracy, f1


def mean(measurement: Measurement) -> float:
    return float(np.average(measurement.values, weights=measurement.weights))


def sklearn_f1(expected: Sequence[str], predicted: Sequence[str]) -> float:
    labels = sorted(set(expected))
    return float(f1_score(expected, predicted, labels=labels, average="macro", zero_division=0))


LETTERS = st.sampled_from(["a", "b", "c", "none of these"])


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), LETTERS), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_scikit_learn(rows: list[tuple[str, str]]) -> None:
    expected, answers = [e for e, _ in rows], [a for _, a in rows]
    accuracy, f1 = measure(expected, answers)
    assert mean(accuracy) == sum(e == a for e, a in rows) / len(rows)
    assert mean(f1) == pytest.approx(sklearn_f1(expected, answers), abs=1e-8)
    halved = mean(f1) / 2
    assert halved == 0 or halved != pytest.approx(sklearn_f1(expected, answers), abs=1e-8)


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    expected = ["a"] * 95 + ["b"] * 5
    accuracy, f1 = measure(expected, ["a"] * 100)
    assert mean(accuracy) == 0.95
    assert mean(f1) == pytest.approx(0.95 / 1.95, abs=1e-8)  # (2 * 95 / 195 + 0) / 2


def test_details_by_hand() -> None:
    accuracy, _ = measure(["a", "a", "b", "b"], ["a", "b", "b", "I do not know"])
    assert accuracy.details == {
        "classes": {
            "a": {"rows": 2, "precision": 1.0, "recall": 0.5, "f1": 2 / 3},
            "b": {"rows": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5},
        },
        "confusion": {"a": {"a": 1, "b": 1}, "b": {"": 1, "b": 1}},
        "no_label": 1,
    }


def test_words_around_a_label_are_ignored_unless_they_count() -> None:
    expected, answers = ["yes", "no", "yes"], ["Yes.", "The answer is No", "yes"]
    assert measure(expected, answers)[0].values == (1, 1, 1)
    strict = {"ignore_case": False, "ignore_punctuation": False, "ignore_lead_in": False}
    assert measure(expected, answers, **strict)[0].values == (0, 0, 1)


def test_references_that_differ_in_case_are_two_labels_unless_one_is_named() -> None:
    expected, answers = ["yes", "Yes", "no"], ["yes", "yes", "no"]
    accuracy, _ = measure(expected, answers)
    assert accuracy.values == (1, 0, 1)
    assert set(accuracy.details["classes"]) == {"yes", "Yes", "no"}
    accuracy, _ = measure(expected, answers, labels=["yes", "no"])
    assert accuracy.values == (1, 1, 1)
    assert set(accuracy.details["classes"]) == {"yes", "no"}


PAIRS = [("-1", "1"), ("C", "C++"), ("C++", "C#"), ("A-", "A+"), ("<5", ">5"), ("Aa", "aa"),
         ("x", "x."), ("5%", "5"), ("+", "-"), (":)", ":(")]  # fmt: skip


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_model_that_swaps_two_labels_has_these_rows_wrong(
    pair: tuple[str, str], named: bool
) -> None:
    expected = [*pair, "other"] * 3
    swapped = {pair[0]: pair[1], pair[1]: pair[0], "other": "other"}
    options: dict[str, Any] = {"labels": [*pair, "other"]} if named else {}
    accuracy, f1 = measure(expected, [swapped[label] for label in expected], **options)
    assert accuracy.values == (0, 0, 1) * 3
    assert mean(f1) == pytest.approx(1 / 3)
    assert accuracy.details["confusion"][pair[0]] == {pair[1]: 3}


TEXTS = st.text(st.sampled_from("aAb1 .,-+#*<>()_`\"'!?:="), min_size=1, max_size=3).map(str.strip)


@given(st.lists(TEXTS.filter(bool), min_size=2, max_size=6, unique=True), st.randoms())
@settings(max_examples=60)
def test_rows_are_right_exactly_where_labels_stay(labels: list[str], order: Random) -> None:
    """Whatever the labels are: a model that permutes them is right on those that stay."""
    permuted = order.sample(labels, len(labels))
    accuracy, _ = measure(labels, permuted)
    assert accuracy.values == tuple(map(float, map(str.__eq__, labels, permuted)))
    assert measure(labels, labels)[0].values == (1.0,) * len(labels)


def run_with(train: Sequence[str], validation: Sequence[str], test: Sequence[Record]) -> RunContext:
    parts = [
        [
            Completion(source=f"{n}", prompt=f"p{n}", completion=label)
            for n, label in enumerate(part)
        ]
        for part in (train, validation)
    ]
    return RunContext(
        model=Path(), device="cpu", artifacts={}, open=lambda path: FakeTextModel(),
        train=parts[0], validation=parts[1], test=test,
    )  # fmt: skip


def test_an_answer_that_is_a_label_of_other_rows_only_is_wrong() -> None:
    test = [
        Completion(source=f"t:{n}", prompt=f"q{n}", completion=label)
        for n, label in enumerate(["card", "refund"] * 3)
    ]
    answers = {"card": "card lost", "refund": "the refund, I think"}
    model = FakeTextModel(answers={row.prompt: answers[row.completion] for row in test})
    options: dict[str, Any] = {"max_new_tokens": 9}
    built = CLASSIFICATION.build(ClassificationOptions(**options))
    run = run_with(["card lost", "card", "refund"] * 4, ["refund status", "card"] * 3, test)
    accuracy, f1 = measure_part(CLASSIFICATION, built, model, test, run)
    assert accuracy.values == (0, 1) * 3
    assert accuracy.details["confusion"] == {"card": {"card lost": 3}, "refund": {"refund": 3}}
    assert accuracy.details["no_label"] == 0
    assert mean(f1) == pytest.approx(0.5)
    # A validation row is right by the same rules, though no test row has its label.
    row = Completion(source="v:0", prompt="v", completion="refund status")
    right = FakeTextModel(answers={"v": "Refund status."})
    assert measure_part(CLASSIFICATION, built, right, [row], run)[0].values == (1,)
    # Free texts of other rows are no labels.
    run = run_with([f"card and {n}" for n in range(12)], [], test)
    model = FakeTextModel(answers={row.prompt: "card and 3" for row in test})
    assert measure_part(CLASSIFICATION, built, model, test, run)[0].values == (1, 0) * 3


def test_nothing_is_extracted_from_the_labels_of_the_run_file() -> None:
    expected, options = ["so #### a", "#### b"], {"extract": "#### (.*)", "labels": ["a", "b"]}
    assert measure(expected, ["#### a", "so #### a"], **options)[0].values == (1, 0)
    assert measure(expected, ["#### a", "a"], extract="#### (.*)")[0].values == (1, 0)
    with pytest.raises(DataError, match="a:1: the pattern `extract` does not match"):
        measure(["#### a", "b"], ["#### a", "b"], extract="#### (.*)")


def test_labels_of_the_run_file() -> None:
    labels = ["yes", "no", "maybe"]
    assert measure(["yes", "no"], ["yes or maybe", "no"], labels=labels)[0].values == (0, 1)
    assert measure(["yes", "no"], ["yes or maybe", "no"])[0].values == (1, 1)
    with pytest.raises(DataError, match="a:1: the answer 'never' is not a label"):
        measure(["yes", "never"], ["yes", "no"], labels=labels)


@pytest.mark.parametrize(
    "options",
    [{"labels": ["a"]}, {"labels": ["a", " "]}, {"labels": ["a", "b", "a"]}, {"extract": "("}],
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClassificationOptions(**options)


def test_the_interval_of_macro_f1_knows_how_few_rows_a_class_has() -> None:
    """All 5 rows of a class right shows less than all 95: Wilson on 19 effective rows."""
    expected = ["a"] * 95 + ["b"] * 5
    found = measure_macro_f1(["a", "b"], expected, expected)
    interval = mean_interval(found.values, found.weights, bounds=(0, 1))
    assert interval.low == pytest.approx(0.832, abs=0.001)
    assert mean_interval([1.0] * 100, bounds=(0, 1)).low > 0.96


def test_the_interval_of_macro_f1_covers_it() -> None:
    """Of 300 samples of 150 rows in three unequal classes, the interval has the true F1."""
    rng = np.random.default_rng(5)
    names = np.array(["a", "b", "c"])
    shares, confusion = [0.6, 0.3, 0.1], [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]]
    joint = np.array(shares)[:, None] * np.array(confusion)
    true = float(np.mean(2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))))
    covered = 0
    for _ in range(300):
        cells = rng.choice(9, size=150, p=joint.ravel())
        expected, predicted = names[cells // 3].tolist(), names[cells % 3].tolist()
        found = measure_macro_f1(["a", "b", "c"], expected, predicted)
        interval = mean_interval(found.values, found.weights, resamples=200, bounds=(0, 1))
        covered += interval.low <= true <= interval.high
    assert 0.91 <= covered / 300 <= 0.985


def test_is_default_for_labels() -> None:
    assert CLASSIFICATION.default_for(LABELS)
    assert not CLASSIFICATION.default_for(LABELS[:8])
    assert not CLASSIFICATION.default_for(COMPLETIONS)
    assert not CLASSIFICATION.default_for([])
