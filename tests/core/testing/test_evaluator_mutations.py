"""Silent bugs of evaluators, each with the check of the kit that finds it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from mutations import find_failed, specimen

from tunesmith.contracts import Measurement, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.records import Chat, Completion, Record, Text, last_exchange
from tunesmith.testing import EvaluatorExample, run_checks

Score = Callable[[str, str], float]
"""The value of an answer, given the reference."""


class NoOptions(Options):
    """No options."""


class TextEvaluator:
    """Measures each answer by a function of answer and reference."""

    def __init__(self, metric: str, score: Score) -> None:
        self.metric, self.score = metric, score

    def measure(self, model: TextModel, records: Sequence[Record]) -> list[Measurement]:
        exchanges = [last_exchange(record) for record in records]
        answers = [a.text for a in model.generate([prompt for prompt, _ in exchanges], 64)]
        references = [reference.text for _, reference in exchanges]
        return [Measurement(metric=self.metric, values=tuple(self.values(answers, references)))]

    def values(self, answers: Sequence[str], references: Sequence[str]) -> list[float]:
        return [self.score(a, r) for a, r in zip(answers, references, strict=True)]


def f1(answer: str, reference: str) -> float:
    words, expected = answer.split(), reference.split()
    common = (Counter(words) & Counter(expected)).total()
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def bleu(answer: str, reference: str, *, order: int = 4, brevity: bool = True) -> float:
    words, expected = answer.split(), reference.split()
    if not words:
        return 0.0
    logs = []
    for n in range(1, order + 1):
        grams, known = (
            Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
            for text in (words, expected)
        )
        matches = (grams & known).total()
        if not grams:
            continue
        if not matches:
            return 0.0
        logs.append(math.log(matches / grams.total()))
    penalty = min(0.0, 1 - len(expected) / len(words)) if brevity else 0.0
    return math.exp(penalty + sum(logs) / len(logs))


def exact(answer: str, reference: str) -> float:
    return float(answer == reference)


def shouts(answer: str, reference: str) -> float:
    return float(answer.isupper() and answer.lower() == reference.lower())


class Relative(TextEvaluator):
    """Divides by the largest value of the batch."""

    def values(self, answers: Sequence[str], references: Sequence[str]) -> list[float]:
        values = [v + 0.1 for v in super().values(answers, references)]
        return [value / max(values) for value in values]


class Shifted(TextEvaluator):
    """Compares with the reference of the row before."""

    def values(self, answers: Sequence[str], references: Sequence[str]) -> list[float]:
        return super().values(answers, [*references[-1:], *references[:-1]])


class Forgetful(TextEvaluator):
    """Has no value for empty answers."""

    def values(self, answers: Sequence[str], references: Sequence[str]) -> list[float]:
        pairs = [(a, r) for a, r in zip(answers, references, strict=True) if a]
        return super().values([a for a, _ in pairs], [r for _, r in pairs])


class Remembering(TextEvaluator):
    """Measures the first model only, and repeats its values for every other one."""

    values_by_references: dict[tuple[str, ...], list[float]] = {}  # noqa: RUF012 - that is the bug

    def values(self, answers: Sequence[str], references: Sequence[str]) -> list[float]:
        found = super().values(answers, references)
        return self.values_by_references.setdefault(tuple(references), found)


def noisy(answer: str, reference: str) -> float:
    return exact(answer, reference) + random.random() / 100


F1, BLEU, EXACT = "f1", "bleu", "exact-match"
KNOWN = "known_metrics_have_their_values"
MUTATIONS: dict[str, tuple[str, TextEvaluator | Score, str]] = {
    "F1 is halved": (F1, lambda a, r: f1(a, r) / 2, KNOWN),
    "F1 is the precision": (
        F1, lambda a, r: (Counter(a.split()) & Counter(r.split())).total() / max(1, len(a.split())),
        KNOWN,
    ),
    "F1 counts a match only": (F1, lambda a, r: float(f1(a, r) > 0), KNOWN),
    "BLEU is halved": (BLEU, lambda a, r: bleu(a, r) / 2, KNOWN),
    "BLEU has three orders": (BLEU, lambda a, r: bleu(a, r, order=3), KNOWN),
    "BLEU has no brevity penalty": (BLEU, lambda a, r: bleu(a, r, brevity=False), KNOWN),
    "exact match of the beginning": (EXACT, lambda a, r: float(r.startswith(a)), KNOWN),
    "exact match within the answer": (EXACT, lambda a, r: float(r in a), KNOWN),
    "a loss counts as accuracy": ("accuracy", lambda a, r: 1 - exact(a, r), KNOWN),
    "depends on the batch": ("mine", Relative("mine", exact), "does_not_depend_on_batching"),
    "off by one row": ("mine", Shifted("mine", exact), "does_not_depend_on_batching"),
    "leaves rows out": ("mine", Forgetful("mine", exact), "metrics_are_declared"),
    "is noisy": ("mine", noisy, "same_result_twice"),
    "is not a number": ("mine", lambda a, r: math.nan if not a else exact(a, r),
                        "metrics_are_declared"),
    "repeats an earlier model": ("mine", Remembering("mine", exact), "perfect_model_scores_best"),
    "ignores the answers": ("mine", lambda a, r: len(r) / 10, "perfect_model_scores_best"),
    "ignores capitals": ("shouting", lambda a, r: exact(a.lower(), r.lower()),
                         "measures_its_examples"),
}  # fmt: skip
EXAMPLE = EvaluatorExample(
    records=[Completion(source=f"rows:{n}", prompt=f"{n}?", completion="yes") for n in range(3)],
    answers={"0?": "YES", "1?": "yes", "2?": "NO"},
    values={"shouting": [1.0, 0.0, 0.0]},
)


def measure(metric: str, evaluator: TextEvaluator | Score) -> set[str]:
    if not isinstance(evaluator, TextEvaluator):
        evaluator = TextEvaluator(metric, evaluator)
    offer = EvaluatorOffer(
        name="mine",
        summary="answers",
        config=NoOptions,
        build=lambda options: evaluator,
        metrics=(Metric(name=metric, higher_is_better=True, is_descriptive=metric == "shouting"),),
    )
    examples = {"mine": [EXAMPLE]} if metric == "shouting" else {}
    return find_failed(specimen("evaluators", offer), examples=examples)


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        (F1, f1),
        (F1, lambda a, r: 100 * f1(a, r)),
        ("Token_F1".lower(), f1),
        (BLEU, bleu),
        (EXACT, exact),
        ("accuracy", exact),
        ("mine", exact),
        ("shouting", shouts),
    ],
)
def test_an_honest_evaluator_passes(metric: str, score: Score) -> None:
    assert measure(metric, score) == set()


@pytest.mark.parametrize("bug", MUTATIONS)
def test_a_bug_of_an_evaluator_is_found(bug: str) -> None:
    metric, evaluator, check = MUTATIONS[bug]
    Remembering.values_by_references.clear()
    assert check in measure(metric, evaluator)


def has_greeting(answer: str, reference: str) -> float:
    """Rate the style of an answer; the reference does not matter."""
    return (answer.startswith("Hello") + (len(answer.split()) < 20)) / 2


GREETED = EvaluatorExample(
    records=[Completion(source="rows:1", prompt="Is it?", completion="Hello, it is.")],
    answers={"Is it?": "yes"},
    values={"style": [0.5]},
)


def rate(
    score: Score,
    examples: Sequence[EvaluatorExample] = (),
    *,
    records: Sequence[Record] = (),
    check: str = "perfect_model_scores_best",
) -> tuple[str, str]:
    """Return the state of a check, and its detail."""
    offer = EvaluatorOffer(
        name="mine",
        summary="style",
        config=NoOptions,
        build=lambda options: TextEvaluator("style", score),
        metrics=(Metric(name="style", higher_is_better=True),),
        accepts=frozenset({Completion, Chat}),
        sample_records=tuple(records),
    )
    results = run_checks(specimen("evaluators", offer), examples={"mine": examples})
    (result,) = (r for r in results if r.check == check)
    return result.state, result.detail


def test_what_the_records_of_the_kit_do_not_have_is_compared_on_examples() -> None:
    state, detail = rate(has_greeting)
    assert state == "not run" and "needs examples for mine" in detail
    assert rate(has_greeting, [GREETED])[0] == "passed"
    impolite = replace(GREETED, records=[replace(GREETED.records[0], completion="It is.")])
    state, detail = rate(has_greeting, [impolite])
    assert state == "failed" and "pass examples that have it" in detail


def has_date(answer: str, reference: str) -> float:
    """Rate only answers with a date."""
    return float("2026" in answer and answer == reference)


DATED = tuple(
    Completion(source=f"rows:{n}", prompt=f"{n}?", completion=f"2026-01-0{n}") for n in range(1, 4)
)


def test_sample_records_take_the_place_of_the_records_of_the_kit() -> None:
    """The kit's own answers have no date, so that a perfect model would not be any better."""
    assert rate(has_date)[0] == "failed"
    assert rate(has_date, records=DATED)[0] == "passed"
    undated = [replace(record, completion="soon") for record in DATED]
    state, detail = rate(has_date, records=undated)
    assert state == "failed" and "name some in the offer's `sample_records`" in detail
    state, detail = rate(has_greeting, records=undated)
    assert state == "failed", "another answer would get another value, but no sample record has it"


@pytest.mark.parametrize(
    ("records", "state", "text"),
    [
        ((), "skipped", "names no records"),
        (DATED, "passed", ""),
        (DATED[:1], "failed", "one record"),
        ((*DATED, Text(source="rows:4", text="2026")), "failed", "a Text, not in `accepts`"),
    ],
)
def test_sample_records_are_several_of_accepted_kinds(
    records: tuple[Record, ...], state: str, text: str
) -> None:
    found, detail = rate(has_date, records=records, check="sample_records_can_be_measured")
    assert (found, text in detail) == (state, True)


def test_a_metric_with_one_value_for_all_answers_fails_without_examples_too() -> None:
    assert rate(lambda answer, reference: 0.5)[0] == "failed"
