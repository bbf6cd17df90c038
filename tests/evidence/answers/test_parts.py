"""A whole answer is right only if each of its parts is."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.records import Chat, Completion, Message
from tunesmith.testing import FakeTextModel
from tunesmith_evidence.answers.generate import AnswerOptions
from tunesmith_evidence.answers.parts import offer_parts_evaluator


class Options(AnswerOptions):
    """Options of an evaluator, with the mark that an answer must end with."""

    mark: str = "!"


def judge(options: Options, prompt: str, answer: str, reference: str) -> Sequence[bool]:
    return answer.strip("!") == reference, answer.endswith(options.mark), "?" in prompt


OFFER = offer_parts_evaluator(
    name="parts", summary="parts", config=Options, metrics=("whole", "word", "mark", "asked"),
    judge=judge,
)  # fmt: skip
ROWS = [
    Completion(source="row:1", prompt="A?", completion="a"),
    Completion(source="row:2", prompt="B?", completion="b"),
    Chat(source="row:3", messages=(Message("user", "C."), Message("assistant", "c"))),
]
MODEL = FakeTextModel(answers={"A?": "<think>?</think>a!", "B?": "x", "C.": "c!"})


def measure(rows: Sequence[Completion | Chat]) -> dict[str, tuple[float, ...]]:
    evaluator = OFFER.build(Options())
    return {m.metric: m.values for m in evaluator.measure(MODEL, rows)}


def test_the_whole_is_right_only_if_each_part_is() -> None:
    assert measure(ROWS) == {
        "whole": (1, 0, 0), "word": (1, 0, 1), "mark": (1, 0, 1), "asked": (1, 1, 0),
    }  # fmt: skip
    assert set(measure([]).values()) == {()}


def test_the_limit_is_that_of_all_references() -> None:
    limit = OFFER.answer_limit(Options(), ROWS)
    assert limit and OFFER.build(Options()).prepare(ROWS).limit == limit
    assert OFFER.answer_limit(Options(max_new_tokens=7), ROWS) == 7
