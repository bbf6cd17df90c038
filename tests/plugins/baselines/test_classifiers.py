"""Baselines without a model: they learn, and the order of the training rows does not matter."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from baseline_rows import class_rows, list_variants, names, object_rows, share_right, text_rows

from tunesmith.offers import BaselineOffer
from tunesmith.records import last_exchange
from tunesmith_plugins.baselines.fields import FIELDS
from tunesmith_plugins.baselines.linear import LINEAR
from tunesmith_plugins.baselines.majority import MAJORITY
from tunesmith_plugins.baselines.nearest import NEAREST

TRAIN, TEST = class_rows(60, 1), class_rows(40, 1000)
OFFERS = (MAJORITY, NEAREST, LINEAR, FIELDS)


def test_which_baselines_are_used_for_which_rows() -> None:
    suited = {
        kind: [offer.name for offer in OFFERS if offer.suits(rows)]
        for kind, rows in {
            "classes": TRAIN, "objects": object_rows(40, 1), "text": text_rows(40, 1),
        }.items()
    }  # fmt: skip
    assert suited == {
        "classes": ["majority", "nearest", "linear"],
        "objects": ["majority", "nearest", "fields"],
        "text": [],
    }


def test_cheaper_baselines_cost_less() -> None:
    assert [offer.cost for offer in OFFERS] == [0, 10, 20, 30]
    assert not any(offer.needs_model or offer.has_probabilities for offer in OFFERS)
    solutions = [offer.solution for offer in OFFERS]
    assert solutions == ["constant", "classifier", "classifier", "classifier"]


def test_the_most_frequent_answer() -> None:
    [variant] = list_variants(MAJORITY, TRAIN)
    answers = [last_exchange(row)[1].text for row in TEST]
    most = Counter(last_exchange(row)[1].text for row in TRAIN).most_common(1)[0][0]
    assert variant.name == ""
    assert share_right(variant, TEST) == answers.count(most) / len(answers)


def test_nearest_rows_and_centroids() -> None:
    for k in (1, 5, 10):
        [variant] = list_variants(NEAREST, TRAIN, k=[k, k], centroid=False)
        assert variant.name == f"k={k}"
        assert share_right(variant, TEST) > 0.9
    [chosen] = list_variants(NEAREST, TRAIN)
    assert chosen.name in ("k=5", "k=1", "k=10", "k=20", "centroid")
    assert share_right(chosen, TEST) > 0.95


def test_linear_classifiers() -> None:
    variants = list_variants(LINEAR, TRAIN)
    assert names(variants) == ["C=10", "C=1", "C=100"]
    assert min(share_right(variant, TEST) for variant in variants) > 0.95


def test_fields_of_objects() -> None:
    [variant] = list_variants(FIELDS, object_rows(60, 1))
    assert share_right(variant, object_rows(40, 1000)) > 0.9
    assert list_variants(FIELDS, TRAIN) == []


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer.name)
def test_the_order_of_training_rows_does_not_matter(offer: BaselineOffer[Any]) -> None:
    rows = object_rows(24, 1) if offer is FIELDS else TRAIN
    shuffled = random.Random(5).sample(rows, len(rows))
    prompts = [last_exchange(row)[0] for row in TEST]
    given = [
        [
            [g.text for g in variant.model.generate(prompts, 8)]
            for variant in list_variants(offer, r)
        ]  # type: ignore[arg-type]
        for r in (rows, shuffled)
    ]
    assert given[0] == given[1]
