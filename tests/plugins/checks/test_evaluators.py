"""Evaluators that cannot measure the test rows are refused, with the way out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tunesmith.records import Completion, Message, Preference, UnpairedPreference
from tunesmith_plugins.checks.evaluators import review
from tunesmith_plugins.evaluators.exact_match import EXACT_MATCH
from tunesmith_plugins.evaluators.kl import KL
from tunesmith_plugins.evaluators.loss import LOSS
from tunesmith_plugins.evaluators.preference_accuracy import PREFERENCE_ACCURACY
from tunesmith_plugins.evaluators.reward_margin import REWARD_MARGIN

PROMPT = (Message("user", "q"),)
LABELLED = UnpairedPreference(source="f:7", prompt=PROMPT, completion="a", label=True)
PAIR = Preference(source="f:8", prompt=PROMPT, chosen="a", rejected="b")
TEXT = Completion(source="f:9", prompt="q", completion="a")


def plan(*offers: Any) -> Any:
    return SimpleNamespace(
        evaluators=[SimpleNamespace(offer=offer, id=offer.name) for offer in offers]
    )


def test_every_kind_that_an_evaluator_cannot_measure_is_named() -> None:
    run = plan(LOSS, PREFERENCE_ACCURACY, KL, EXACT_MATCH, REWARD_MARGIN)
    found = [*review(run, [PAIR, LABELLED, LABELLED, TEXT])]
    assert [(f.level, f.where) for f in found] == [
        ("error", f"evaluators.{number}.use") for number in (1, 1, 3, 4)
    ]
    assert [f.message.split("; it only")[0] for f in found] == [
        "preference-accuracy cannot measure Completion records, such as f:9",
        "preference-accuracy cannot measure UnpairedPreference records, such as f:7",
        "exact-match cannot measure UnpairedPreference records, such as f:7",
        "reward-margin cannot measure Completion records, such as f:9",
    ]
    assert found[-1].message.endswith("; it only measures Preference, UnpairedPreference")


def test_nothing_is_found_where_all_rows_can_be_measured() -> None:
    assert [*review(plan(PREFERENCE_ACCURACY), [PAIR])] == []
    assert [*review(plan(LOSS, KL, REWARD_MARGIN), [PAIR, LABELLED])] == []
    assert [*review(plan(), [TEXT])] == []
