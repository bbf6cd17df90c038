"""Answers that evaluators generate."""

from __future__ import annotations

import pytest

from tunesmith.errors import DataError
from tunesmith.execution.wrapped_model import CachedModel
from tunesmith.records import Completion, Message
from tunesmith.testing.examples import TOOL_CALLS
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.answers.generate import (
    format_reasoning_and_answer,
    generate_answers,
    read_references,
    resolve_max_new_tokens,
)

RECORDS = [Completion(source=f"a:{n}", prompt=f"q{n}", completion="ab") for n in range(3)]


def test_evaluators_with_the_default_limit_share_what_is_generated() -> None:
    model = FakeTextModel(answers={"q1": "yes"})
    cached = CachedModel(model)
    assert generate_answers(cached, RECORDS) == ("", "yes", "")
    assert generate_answers(cached, RECORDS) == ("", "yes", "")
    assert model.calls == [("generate", 2 + 8)]


def test_limits() -> None:
    model = FakeTextModel()
    generate_answers(model, RECORDS, 5)
    for extra_tokens in (30, 3000):
        generate_answers(
            model, RECORDS, resolve_max_new_tokens("auto", RECORDS, extra_tokens=extra_tokens)
        )
    assert model.calls == [("generate", 5), ("generate", 40), ("generate", 512)]


def test_references_that_call_tools_are_refused() -> None:
    assert read_references(RECORDS, "numeric") == ["ab"] * 3
    with pytest.raises(DataError, match="kit:1: the evaluator numeric cannot compare tool calls"):
        read_references(TOOL_CALLS, "numeric")


def test_reasoning_is_generated_before_the_answer() -> None:
    assert format_reasoning_and_answer(Message("assistant", "b")) == "b"
    assert (
        format_reasoning_and_answer(Message("assistant", "b", reasoning="a"))
        == "<think>\na\n</think>\n\nb"
    )
