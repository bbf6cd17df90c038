"""The share of requests that needs no person, and the models that know how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.contracts import Generation, Measurement, RunContext, TextModel, TokenScores
from tunesmith.errors import UsageError
from tunesmith.offers import Offered, Plugin
from tunesmith.plan import Component
from tunesmith.records import Completion, Record
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.choice_model import ChoiceModel
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_evidence.review.scores import NEVER, score_answers, score_logprob
from tunesmith_plugins.evaluators.exact_match import EXACT_MATCH, ExactMatchOptions
from tunesmith_plugins.evaluators.loss import LOSS
from tunesmith_plugins.evaluators.review import REVIEW, Review, ReviewOptions, review

SURE, UNSURE = -0.01, -1.0


@dataclass
class SureOfRight(FakeTextModel):
    """Answers ``yes``. It is sure about rows whose prompt says so."""

    def score_generations(
        self, prompts: Any, generations: Sequence[Generation], **more: Any
    ) -> Sequence[TokenScores]:
        return self.score(prompts, [g.text for g in generations])

    def score(self, prompts: Any, completions: Any, **more: Any) -> Sequence[TokenScores]:
        return [
            TokenScores((SURE if "sure" in prompt[-1].text else UNSURE, 0.0)) for prompt in prompts
        ]

    def generate(self, prompts: Any, max_new_tokens: int, **more: Any) -> Sequence[Generation]:
        return [Generation("yes", 2, "stop", (1, 2)) for _ in prompts]


def rows(count: int, first: int = 0) -> list[Record]:
    """Return rows of which every second is a sure, right one; half of the others are wrong."""
    return [
        Completion(
            source=f"r:{n}",
            prompt=f"{n} sure" if n % 2 else f"{n}",
            completion="no" if n % 4 == 0 else "yes",
        )
        for n in range(first, first + count)
    ]


def context(validation: Sequence[Record]) -> RunContext:
    def measure_first(model: TextModel, records: Sequence[Record]) -> Measurement:
        (found,) = EXACT_MATCH.build(ExactMatchOptions()).measure(model, records)
        return found

    return RunContext(
        model=Path(),
        device="cpu",
        artifacts={},
        open=lambda path: FakeTextModel(),
        validation=validation,
        measure_first=measure_first,
    )


def measure(
    model: TextModel, validation: Sequence[Record], test: Sequence[Record], precision: float = 0.9
) -> dict[str, Measurement]:
    evaluator = Review(ReviewOptions(precision=precision))
    return {m.metric: m for m in evaluator.compare(model, test, context(validation))}


def test_sure_answers_are_automated() -> None:
    found = measure(SureOfRight(), rows(200), rows(40, first=200))
    assert found["automated"].values == (0.0, 1.0) * 20
    assert found["automated-right"].values == (0.0, 1.0, 1.0, 1.0) * 10
    assert found["automated-right"].weights == found["automated"].values
    confidences = found["confidence"].values
    assert confidences[1] > 0.95 and confidences[0] == pytest.approx(0.5, abs=0.05)
    finding = found["automated"].details["finding"]
    assert finding.startswith("50 % of requests need no person (confidence above 0.5")
    assert (
        "of their answers, 1.000 [0.839, 1.000] are right, with a required precision of 90 %"
        in finding
    )
    policy = ReviewPolicy(**found["automated"].details["review"])
    assert policy.threshold == pytest.approx(score_logprob(UNSURE))


def test_the_required_precision_is_not_rounded() -> None:
    found = measure(SureOfRight(), rows(200), rows(40, first=200), 0.985)
    assert "98.5 %" in found["automated"].details["finding"]


def test_without_enough_validation_rows_a_person_sees_everything() -> None:
    found = measure(SureOfRight(), rows(20), rows(40, first=200))
    assert not any(found["automated"].values) and "automated-right" not in found
    assert "at least 29 independent rows" in found["automated"].details["finding"]


def test_rows_do_not_depend_on_their_order_or_batch() -> None:
    test = rows(40, first=200)
    whole = measure(SureOfRight(), rows(200), test)["confidence"].values
    part = measure(SureOfRight(), rows(200)[::-1], test[::-1][:7])["confidence"].values
    assert part == whole[::-1][:7]


def test_a_run_without_validation_rows_is_not_measured() -> None:
    assert measure(SureOfRight(), [], rows(4)) == {}
    assert (
        Review(ReviewOptions()).compare(
            SureOfRight(), rows(4), replace(context(rows(4)), measure_first=None)
        )
        == []
    )
    with pytest.raises(UsageError, match="validation rows of a run"):
        Review(ReviewOptions()).measure(SureOfRight(), rows(4))


def test_scores_come_from_the_model_its_tokens_or_its_text() -> None:
    model = FakeTextModel(logprobs={"a": (-1.0, -0.5), "b": (-0.1,)})
    answers = [
        Generation("x", 1, "stop", confidence=2.5),
        Generation("a", 2, "stop", (1, 2)),
        Generation("b", 2, "stop"),
        Generation("a", 2, "length", (1, 2)),
    ]
    found = score_answers(model, ["p"] * 4, answers)
    odds = [math.log(p / (1 - p)) for p in (math.exp(-1.5), math.exp(-0.1))]
    assert found == [2.5, pytest.approx(odds[0]), pytest.approx(odds[1]), NEVER]
    assert score_logprob(0.0) > score_logprob(-0.001) > score_logprob(-700.0) > NEVER


def test_a_chosen_label_is_as_sure_as_its_lead() -> None:
    model = FakeTextModel(logprobs={"yes": (-0.25,), "no": (-1.0,), "maybe": (-3.0,)})
    (answer,) = ChoiceModel(model, ("no", "yes", "maybe")).generate(["p"], 1)
    assert (answer.text, answer.confidence) == ("yes", 0.75)


def component(offer: Any, **options: Any) -> Any:
    plugin = Plugin(name="p", distribution="tunesmith", version="1", module="m")
    return Component(Offered(plugin, offer), offer.config(**options))


@pytest.mark.parametrize(
    ("evaluators", "count", "levels", "hint"),
    [
        ([EXACT_MATCH, REVIEW], 400, [], ""),
        ([EXACT_MATCH], 0, [], ""),
        ([EXACT_MATCH, REVIEW], 20, ["warning"], "validation_size = 118"),
        ([EXACT_MATCH, REVIEW], 0, ["error"], "validation_size = 118"),
        ([REVIEW], 400, ["error"], "put such an evaluator before it"),
        ([LOSS, REVIEW], 400, ["error"], "put such an evaluator before it"),
    ],
)
def test_a_run_that_cannot_choose_a_threshold_is_rejected(
    evaluators: list[Any], count: int, levels: list[str], hint: str
) -> None:
    found = list(review([component(offer) for offer in evaluators], [SimpleNamespace()] * count))  # type: ignore[list-item]
    assert [finding.level for finding in found] == levels
    assert all(hint in finding.hint for finding in found)
