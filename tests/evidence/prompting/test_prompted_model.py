"""A model behind instructions and worked examples, as many as fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from tunesmith.contracts import BaselineTask, Generation
from tunesmith.errors import DataError
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.records import Completion, Message, Prompt
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.choice_model import ChoiceModel
from tunesmith_evidence.prompting.prompted_model import (
    PromptedModel,
    count_prompt_tokens,
    make_fit_check,
)
from tunesmith_evidence.prompting.task_prompt import read_task
from tunesmith_evidence.tasks.examples import Example


def example(n: int) -> Example:
    return Example(f"q{n}", f"a{n}", f"q{n}")


@dataclass
class SmallModel(FakeTextModel):
    """A model with room for a number of messages, that keeps its prompts."""

    room: int = 100
    prompts: list[Prompt] = field(default_factory=list)

    def fits(self, prompt: Prompt, extra_tokens: int) -> bool:
        return len(prompt) + extra_tokens // 10 <= self.room

    def generate(self, prompts: Sequence[Prompt], *args: object, **options: object) -> list[object]:  # type: ignore[override]
        self.prompts += prompts
        return [Generation("an answer", 3, "stop") for _ in prompts]

    def score(self, prompts: Sequence[Prompt], *args: object, **options: object) -> list[object]:  # type: ignore[override]
        self.prompts += prompts
        return []


class Uncounted:
    """A model that does not count tokens."""

    score = generate = FakeTextModel.generate


def texts(prompt: Prompt) -> list[str]:
    return [m.text for m in prompt if isinstance(m, Message)]


QUESTION = (Message("user", "now"),)


def test_the_most_useful_example_is_next_to_the_question() -> None:
    model = PromptedModel(FakeTextModel(), "Be brief.", lambda text: [example(1), example(2)])
    built = model.build_prompt(QUESTION, 8)
    assert texts(built) == ["Be brief.", "q2", "a2", "q1", "a1", "now"]


def test_examples_that_do_not_fit_are_skipped() -> None:
    small = SmallModel(room=6)
    model = PromptedModel(WrappedModel(small), None, lambda text: [example(n) for n in range(9)])
    model.generate([QUESTION], 10)
    model.score([QUESTION, QUESTION], ["x", "x" * 30])
    assert [texts(prompt) for prompt in small.prompts] == [
        ["q1", "a1", "q0", "a0", "now"],
        *[["q0", "a0", "now"]] * 2,
    ]
    assert texts(PromptedModel(SmallModel(room=0)).build_prompt(QUESTION, 10)) == ["now"]


def test_examples_are_dropped_before_passages_and_the_least_similar_passage_first() -> None:
    class Words(SmallModel):
        def fits(self, prompt: Prompt, extra_tokens: int) -> bool:
            return len(" ".join(texts(prompt)).split()) <= self.room

    def shown(room: int) -> list[str]:
        model = PromptedModel(
            Words(room=room),
            find=lambda text: [example(1)],
            description="Short.",
            find_passages=lambda text: ["near", "far"],
        )
        return texts(model.build_prompt(QUESTION, 8))

    start, end = "Answer the question from these passages.\n\n", "\n\nQuestion: now"
    both, one = f"{start}far\n\nnear{end}", f"{start}near{end}"
    assert shown(13) == ["Short.", "q1", "a1", both]
    assert shown(12) == shown(11) == ["Short.", both]
    assert shown(10) == ["Short.", one]
    assert shown(9) == shown(2) == ["Short.", "now"]
    assert shown(1) == ["now"]


def test_a_description_that_leaves_no_room_is_skipped() -> None:
    class Short(SmallModel):
        def fits(self, prompt: Prompt, extra_tokens: int) -> bool:
            return sum(map(len, texts(prompt))) <= 20

    model = PromptedModel(Short(), "Be brief.", lambda text: [example(1)], description="x" * 30)
    assert texts(model.build_prompt(QUESTION, 8)) == ["Be brief.", "q1", "a1", "now"]
    assert texts(replace(model, description="x").build_prompt(QUESTION, 8)) == [
        "Be brief.\n\nx", "q1", "a1", "now",
    ]  # fmt: skip


def test_a_model_without_a_limit_is_limited_by_length() -> None:
    fits = make_fit_check(WrappedModel(FakeTextModel()))
    assert fits((Message("user", "x" * 3000),), 1000)
    assert not fits((Message("user", "x" * 3000),), 1100)


def test_tokens_of_a_prompt_count_instructions_and_examples() -> None:
    inner = WrappedModel(FakeTextModel())
    model = WrappedModel(PromptedModel(inner, "Be brief.", lambda text: [example(1), example(2)]))
    assert count_prompt_tokens(inner, [QUESTION, "two words"]) == [1, 2]
    # "Be brief.", two examples of one word each with answers of one word, and the question.
    assert count_prompt_tokens(model, [QUESTION, "two words"]) == [2 + 4 + 1, 2]
    assert count_prompt_tokens(Uncounted(), [QUESTION]) is None


def test_system_messages_are_joined_and_tools_stay_in_front() -> None:
    prompt = (
        Message("system", "You sort mail.", tools=('{"name": "x"}',)),
        Message("user", "one"),
        Message("assistant", "1"),
        Message("user", "two"),
    )
    model = PromptedModel(FakeTextModel(), "Be brief.", lambda text: [example(1)], "<{prompt}>")
    built = model.build_prompt(prompt, 8)
    assert texts(built) == ["Be brief.\n\nYou sort mail.", "q1", "a1", "one", "1", "<two>"]
    assert [m.tools for m in built if isinstance(m, Message)] == [prompt[0].tools, *[()] * 5]


@dataclass
class PlainModel(SmallModel):
    """A model without a chat template, that goes on with another question."""

    def fits(self, prompt: Prompt, extra_tokens: int) -> bool:
        if len(prompt) > 1:
            raise DataError("conversation", "the model has no chat template")
        return len(texts(prompt)[0]) <= self.room

    def generate(self, prompts: Sequence[Prompt], *args: object, **options: object) -> list[object]:  # type: ignore[override]
        self.prompts += prompts
        return [Generation(" a3\n\nq4\na4", 9, "length") for _ in prompts]


def test_without_a_chat_template_all_is_one_text() -> None:
    plain = PlainModel()
    found = [example(1), example(2)]
    [answer] = PromptedModel(plain, "Be brief.", lambda text: found).generate([QUESTION], 8)
    assert texts(plain.prompts[0]) == ["Be brief.\n\nq2\na2\n\nq1\na1\n\nnow\n"]
    assert (answer.text, answer.finish_reason) == ("a3", "stop")


def test_examples_of_a_text_that_do_not_fit_are_skipped() -> None:
    plain = PlainModel(room=15)
    model = PromptedModel(plain, None, lambda text: [example(n) for n in range(9)])
    assert texts(model.build_prompt(QUESTION, 8)) == ["q0\na0\n\nnow\n"]
    assert model.count_shown(QUESTION, 8) == 1


def test_instructions_alone_do_not_end_an_answer_at_an_empty_line() -> None:
    plain = PlainModel()
    [answer] = PromptedModel(plain, "Be brief.").generate([QUESTION], 8)
    assert texts(plain.prompts[0]) == ["Be brief.\n\nnow\n"]
    assert answer.text == " a3\n\nq4\na4"


def test_a_prompt_that_cannot_be_written_anyway_is_refused() -> None:
    turns = (Message("user", "one"), Message("assistant", "1"), Message("user", "two"))
    with pytest.raises(DataError, match="no chat template"):
        PromptedModel(PlainModel()).build_prompt(turns, 8)
    tools = (Message("user", "one", tools=('{"name": "x"}',)),)
    with pytest.raises(DataError, match="no chat template"):
        PromptedModel(PlainModel(), "Be brief.").build_prompt(tools, 8)


def test_a_text_to_be_continued_stays() -> None:
    model = PromptedModel(FakeTextModel(), "Be brief.", lambda text: [example(1)])
    assert model.build_prompt("once upon", 8) == "once upon"


@pytest.mark.parametrize(
    ("answers", "kind"), [(["yes", "no"] * 9, "classes"), ([f"a{n}" for n in range(18)], "text")]
)
def test_the_prompt_of_a_task(answers: list[str], kind: str) -> None:
    rows = [
        Completion(source=str(n), prompt=f"q{n}", completion=answer)
        for n, answer in enumerate(answers)
    ]
    task = BaselineTask(train=rows, base=FakeTextModel, seed=1, system_prompt="Sort it.")
    prompt = read_task(task)
    assert (prompt.kind, len(prompt.examples)) == (kind, 18)
    described = prompt.prompted(describe=True)
    system = texts(described.build_prompt(QUESTION, 8))[0]
    assert system == f"Sort it.\n\n{prompt.description}"
    assert texts(prompt.prompted(describe=False).build_prompt(QUESTION, 8))[0] == "Sort it."
    models = [variant.model for variant in prompt.constrained(described, "constrained")]
    if kind == "text":
        assert models == []
        return
    chooser, calibrated = models
    assert chooser == ChoiceModel(described, ("no", "yes"))
    assert isinstance(calibrated, ChoiceModel) and len(calibrated.calibration) == 16
