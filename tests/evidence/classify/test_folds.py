"""Folds of training rows, and the way that is right most often out of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tunesmith_evidence.classify.classifiers import NearestRowsClassifier, Rows
from tunesmith_evidence.classify.folds import FOLDS, assign_folds, choose_out_of_fold
from tunesmith_evidence.classify.vectors import Vectorizer

TEXTS = [f"{word} number {n}" for n in range(30) for word in ("card", "loan")]
LABELS = [text.split()[0] for text in TEXTS]
ROWS = Vectorizer(TEXTS).transform(TEXTS)


def test_equal_texts_share_a_fold() -> None:
    folds = assign_folds([*TEXTS, *TEXTS[::-1]])
    assert folds.tolist() == folds[::-1].tolist()
    assert set(folds) == set(range(FOLDS))


def test_the_way_that_is_right_on_rows_it_has_not_seen_is_chosen() -> None:
    """One nearest row remembers wrong labels, and is perfect on the rows it has learned from."""
    noisy = [LABELS[i - 1] if i % 7 == 0 else label for i, label in enumerate(LABELS)]
    ways = {
        "k=1": partial(NearestRowsClassifier, k=1),
        "k=15": partial(NearestRowsClassifier, k=15),
    }
    assert choose_out_of_fold(ways, ROWS, noisy, assign_folds(TEXTS)) == "k=15"


def test_of_equal_ways_the_first_is_chosen_and_a_single_one_is_not_measured() -> None:
    ways = {name: partial(NearestRowsClassifier, k=3) for name in ("b", "a")}
    assert choose_out_of_fold(ways, ROWS, LABELS, assign_folds(TEXTS)) == "b"

    def never(rows: Rows, labels: Sequence[str]) -> NearestRowsClassifier:
        raise AssertionError("it needs no measuring")

    assert choose_out_of_fold({"only": never}, ROWS, LABELS, assign_folds(TEXTS)) == "only"


def test_rows_of_one_fold_only() -> None:
    ways = {
        "first": partial(NearestRowsClassifier, k=1),
        "second": partial(NearestRowsClassifier, k=2),
    }
    assert choose_out_of_fold(ways, ROWS[:2], ["a", "b"], np.zeros(2, dtype=np.int64)) == "first"


class AlwaysRightFrom:
    """A method that answers "a" for all rows from a number on, and "b" for the rows before."""

    labels = ("a", "b")

    def __init__(self, first: int) -> None:
        self.first = first

    def __call__(self, rows: Rows, labels: Sequence[str]) -> AlwaysRightFrom:
        return self

    def scores(self, rows: Rows) -> NDArray[np.float64]:
        is_right = np.asarray(rows)[:, 0] >= self.first
        return np.stack([is_right, ~is_right], axis=1).astype(float)


def test_a_method_must_be_better_by_the_margin() -> None:
    rows, labels = np.arange(1.0, 31.0)[:, None], ["a"] * 30
    for gain, chosen in ((1, "first"), (2, "second"), (8, "second")):
        ways = {"first": AlwaysRightFrom(gain + 1), "second": AlwaysRightFrom(0)}
        arguments = (ways, rows, labels, np.arange(30) % FOLDS)
        assert choose_out_of_fold(*arguments) == "second"
        assert choose_out_of_fold(*arguments, margin=1.0) == chosen
