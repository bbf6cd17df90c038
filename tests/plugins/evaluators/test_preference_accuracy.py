"""A pair scores 1 if the chosen answer is likelier and 1/2 for a tie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.catalog import Catalog
from tunesmith.config import run_file
from tunesmith.config.read_plan import make_plan
from tunesmith.contracts import Finding
from tunesmith.errors import DataError
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Completion, Message, Preference
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.tasks.kinds import are_pairs
from tunesmith_plugins.evaluators.preference_accuracy import (
    PREFERENCE_ACCURACY,
    LengthPreference,
    PreferenceAccuracyOptions,
)
from tunesmith_plugins.evaluators.preference_accuracy import review as review_pairs
from tunesmith_torch.testing.tiny_model import save_tiny_model

SCORES = {"short": [-2.0], "long": [-0.5] * 5, "same": [-2.0], "bad": [-3.0]}


def pair(chosen: str, rejected: str) -> Preference:
    prompt = (Message("user", "q"),)
    return Preference(source="a:1", prompt=prompt, chosen=chosen, rejected=rejected)


PAIRS = [pair("short", "long"), pair("long", "short"), pair("short", "same"), pair("short", "bad")]


@pytest.mark.parametrize(
    ("length_normalized", "expected"), [(False, (1.0, 0.0, 0.5, 1.0)), (True, (0.0, 1.0, 0.5, 1.0))]
)
def test_pairs_score_by_the_likelier_answer(
    length_normalized: bool, expected: tuple[float, ...]
) -> None:
    evaluator = PREFERENCE_ACCURACY.build(
        PreferenceAccuracyOptions(length_normalized=length_normalized)
    )
    model = FakeTextModel(logprobs=SCORES)
    (measurement,) = evaluator.measure(model, PAIRS)
    assert measurement.values == expected
    assert model.calls == [("score", 8)]


def test_is_default_for_pairs_and_refuses_other_records() -> None:
    other = Completion(source="b:2", prompt="p", completion="c")
    assert are_pairs(PAIRS)
    assert not are_pairs([*PAIRS, other])
    assert not are_pairs([])
    evaluator = PREFERENCE_ACCURACY.build(PreferenceAccuracyOptions())
    with pytest.raises(DataError, match="b:2: preference-accuracy needs pairs"):
        evaluator.measure(FakeTextModel(), [other])


def test_an_accuracy_that_is_length_says_so() -> None:
    """The shorter answer is likelier in 31 of 40 pairs; in 6 of them it is the chosen one."""
    scores = {"a": [-1.0], "b" * 9: [-1.0] * 9, "c": [-9.0], "d" * 9: [-0.5] * 9}
    pairs = [pair("a", "b" * 9)] * 6 + [pair("b" * 9, "a")] * 25 + [pair("c", "d" * 9)] * 9
    evaluator = PREFERENCE_ACCURACY.build(PreferenceAccuracyOptions())
    (measurement,) = evaluator.measure(FakeTextModel(logprobs=scores), pairs)
    assert sum(measurement.values) == 6
    details = dict(measurement.details)
    assert (details["shorter_likelier"], details["longer_likelier"]) == (31, 9)
    finding = str(details["finding"])
    assert finding.startswith("the shorter answer is more likely in 31 of 40 pairs of unequal")
    assert "(78 %, sign test p < 0.001)" in finding and "length_normalized = true" in finding
    few = [pair("a", "b" * 9)] * 6 + [pair("c", "d" * 9)] * 4
    (measurement,) = evaluator.measure(FakeTextModel(logprobs=scores), few)
    assert "finding" not in measurement.details


def test_pairs_of_one_group_are_one_toss_of_the_sign_test() -> None:
    differences = [-1] * 12 + [1] * 2
    alone = LengthPreference.count(differences, [None] * 14)
    assert alone.p_value == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    grouped = LengthPreference.count(differences, ["one"] * 12 + ["two", "three"])
    assert grouped.p_value > 0.2 and not grouped.explains_most
    assert LengthPreference.count([0, 0], [None, None]).explains_most is False


def review(model: Path, test: list[Preference], **tables: Any) -> list[Finding]:
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    run = {
        "model": {"base": str(model)},
        "data": {"use": "jsonl", "train": "rows.jsonl"},
        "technique": {"use": "preference"},
        **tables,
    }
    plan = make_plan(run_file.RunFile(tables=run, folder=Path(), stem="x"), catalog)
    return list(review_pairs(plan, test))


def test_pairs_in_which_length_tells_the_chosen_answer_are_a_warning(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path)
    test = [pair("no", "a longer one")] * 31 + [pair("a longer one", "no")] * 9
    (finding,) = review(model, test)
    assert finding.level == "warning"
    assert "the shorter answer is the chosen one in 31 of 40 pairs" in finding.message
    assert "sign test p < 0.001" in finding.message
    assert review(model, test[20:]) == [], "11 of 20 are chance"
    assert review(model, test, evaluators=[{"use": "loss"}]) == []
    assert len(review(model, test, evaluators=[{"use": "preference-accuracy"}])) == 1
