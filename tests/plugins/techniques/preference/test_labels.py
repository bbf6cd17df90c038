"""Labels of a dataset: what a loss cannot learn from, and weights for unequal numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tables import build

from tunesmith.records import Completion, Message, Preference, UnpairedPreference
from tunesmith_plugins.techniques.preference.labels import (
    LabelCounts,
    find_imbalance,
    find_label_problem,
)
from tunesmith_torch.options.preference import PreferenceLossOptions

KTO = PreferenceLossOptions(type="kto")
PROMPT = (Message("user", "Why?"),)
PAIR = Preference(source="f:1", prompt=PROMPT, chosen="a", rejected="b")
GOOD, BAD = (
    UnpairedPreference(source="f:1", prompt=PROMPT, completion="a", label=label)
    for label in (True, False)
)


def test_a_pair_has_an_answer_of_each_kind() -> None:
    other = Completion(source="f:1", prompt="a", completion="b")
    assert LabelCounts.of_records([PAIR, GOOD, GOOD, BAD, other]) == LabelCounts(3, 3, 2)
    assert LabelCounts.of_labels([(True, False), (False,)]) == LabelCounts(1, 1, 2)


@pytest.mark.parametrize(
    ("records", "loss", "problem"),
    [
        ([PAIR], "dpo", ""),
        ([GOOD, BAD], "kto", ""),
        ([PAIR, GOOD], "kto", ""),
        (
            [PAIR, GOOD, BAD],
            "dpo",
            'contains 2 labeled answers without.*dpo needs pairs.*loss.type = "kto"',
        ),
        ([GOOD, BAD], "simpo", 'simpo needs pairs of answers: set technique.loss.type = "kto"'),
        ([GOOD, GOOD], "kto", r"labeled answers \(2\) are all good.*add bad answers.*column"),
        ([BAD], "kto", r"labeled answers \(1\) are all bad.*add good answers$"),
    ],
)
def test_data_that_a_loss_cannot_learn_from(records: Any, loss: Any, problem: str) -> None:
    found = find_label_problem(LabelCounts.of_records(records), PreferenceLossOptions(type=loss))
    assert re.search(problem, found) if problem else found == ""


@pytest.mark.parametrize(
    ("good", "bad", "key", "weight", "bounds"),
    [
        (10, 10, "", 0, (0, 0)),
        (40, 30, "", 0, (0, 0)),
        (41, 30, "undesirable_weight", 1.2, (1.025, 1.3667)),
        (300, 100, "undesirable_weight", 2.6, (2.25, 3)),
        (29, 30, "desirable_weight", 1.2, (1.0345, 1.3793)),
        (10, 100, "desirable_weight", 12, (10, 13.333)),
    ],
)
def test_the_recommended_weight_brings_balance(
    good: int, bad: int, key: str, weight: float, bounds: tuple[float, float]
) -> None:
    """The example of the paper: 1 to 10 needs a weight of 10 to 13.33."""
    counts = LabelCounts(good + bad, good, bad)
    warning = find_imbalance(counts, KTO)
    if not key:
        assert warning == ""
        return
    assert f"{good} good and {bad} bad answers" in warning
    found = re.search(r"loss\.(\w+) = ([\d.]+) \(recommended: ([\d.]+) to ([\d.]+)\)", warning)
    assert found is not None
    assert (found[1], float(found[2])) == (key, weight)
    assert (float(found[3]), float(found[4])) == pytest.approx(bounds, rel=1e-3)
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.0, key: weight}
    ratio = weights["desirable_weight"] * good / (weights["undesirable_weight"] * bad)
    assert 1 <= ratio <= 4 / 3
    chosen = build(PreferenceLossOptions, type="kto", **{key: weight})
    assert find_imbalance(counts, chosen) == ""
    assert find_imbalance(counts, PreferenceLossOptions()) == ""
