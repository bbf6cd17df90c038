"""Templates of a prompt, and the tokens that comparing prompts takes."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.contracts import BaselineTask
from tunesmith.records import Completion, Message
from tunesmith.testing.baselines import DigestModel
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.prompt_search import count_tokens, write_with_template
from tunesmith_evidence.prompting.task_prompt import TaskPrompt, read_task

ROWS = [Completion(source=f"{n}", prompt=f"is {n} odd?", completion=["no", "yes"][n % 2])
        for n in range(10)]  # fmt: skip
QUESTION = (Message("user", "is 11 odd?"),)


def read(base: Any = FakeTextModel) -> TaskPrompt:
    return read_task(BaselineTask(train=ROWS, base=base, seed=1, system_prompt="Sort it."))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        # system prompt 2, list of labels 15, one example 3 + 1, and ten questions of 3 words
        ("turns", 2 + 15 + 4 + 10 * 3),
        ("labeled", 2 + 15 + 6 + 10 * 5),  # and "Question:" and "Answer:" in each question
        ("instruction last", 2 + 4 + 10 * (3 + 15)),  # the list follows each question
    ],
)
def test_tokens_that_all_rows_share_count_once(template: str, words: int) -> None:
    prompt = read()
    assert len(prompt.description.split()) == 15
    model = write_with_template(prompt, prompt.examples[:1], template, describe=True)
    assert model is not None and count_tokens(model, prompt.examples) == words


def test_a_model_that_cannot_count_is_estimated() -> None:
    prompt = read(DigestModel)
    few, many = (
        count_tokens(model, prompt.examples)
        for shown in (1, 8)
        if (model := write_with_template(prompt, prompt.examples[:shown], "turns", describe=True))
    )
    assert 0 < few < many


def test_a_template_that_changes_nothing_is_omitted() -> None:
    prompt = read()
    assert write_with_template(prompt, (), "instruction last", describe=False) is None
    labeled = write_with_template(prompt, prompt.examples[:1], "labeled", describe=False)
    assert labeled is not None
    built = labeled.build_prompt(QUESTION, 8)
    assert [m.text for m in built if isinstance(m, Message)] == [
        "Sort it.", "Question: is 0 odd?\nAnswer:", "no", "Question: is 11 odd?\nAnswer:",
    ]  # fmt: skip
