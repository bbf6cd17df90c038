"""A model behind an endpoint as a text model: messages and tools as they are, no scores."""

from __future__ import annotations

import json

import pytest
from fake_judge import serve_judge

from tunesmith.contracts import Generation
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.records import Message, ToolCall
from tunesmith_evidence.answers.tool_calls import find_tool_calls
from tunesmith_evidence.endpoint.client import Endpoint
from tunesmith_evidence.endpoint.model import EndpointModel, to_conversation


def test_all_turns_are_sent_as_they_are() -> None:
    turns = (("system", "be brief"), ("user", "hi"), ("assistant", "yes?"), ("user", "so"))
    prompt = tuple(Message(role, text) for role, text in turns)  # type: ignore[arg-type]
    with serve_judge(lambda prompt: "answer") as fake:
        (answer,) = EndpointModel(Endpoint(fake.url, "m")).generate([prompt], 17)
    assert answer == Generation("answer", 0, "stop")
    (request,) = fake.requests
    assert request[1] == {
        "model": "m",
        "temperature": 0,
        "max_tokens": 17,
        "messages": [{"role": role, "content": text} for role, text in turns],
    }


def test_tools_calls_and_results_are_sent_and_calls_are_read() -> None:
    tool = {"type": "function", "function": {"name": "find"}}
    call = ToolCall("find", '{"id": 3}', id="c1")
    prompt = (
        Message("user", "find 3", tools=(json.dumps(tool),)),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "found", tool_call_id="c1"),
    )
    function = {"name": "find", "arguments": '{"id": 3}'}
    calls = [{"id": "c1", "type": "function", "function": function}]
    assert to_conversation(prompt) == {
        "messages": [
            {"role": "user", "content": "find 3"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "found", "tool_call_id": "c1"},
        ],
        "tools": [tool],
    }
    content = {"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    with serve_judge(lambda prompt: json.dumps(content).encode()) as fake:
        (answer,) = EndpointModel(Endpoint(fake.url, "m")).generate([prompt], 9)
    assert answer.finish_reason == "stop" and find_tool_calls(answer.text) == [("find", {"id": 3})]


def test_an_answer_at_the_limit() -> None:
    def serve(text: str) -> bytes:
        choice = {"message": {"content": text}, "finish_reason": "length"}
        return json.dumps({"choices": [choice], "usage": {"completion_tokens": 5}}).encode()

    with serve_judge(lambda prompt: serve("" if prompt == "think" else "cut")) as fake:
        model = EndpointModel(Endpoint(fake.url, "m"))
        assert model.generate([(Message("user", "go"),)], 5) == [Generation("cut", 5, "length")]
        with pytest.raises(EnvironmentProblem, match=r"empty answer .* 5 tokens"):
            model.generate([(Message("user", "think"),)], 5)


def test_what_an_endpoint_cannot_do_is_refused_before_anything_is_sent() -> None:
    with serve_judge(lambda prompt: "answer") as fake:
        model = EndpointModel(Endpoint(fake.url, "m"))
        with pytest.raises(UsageError, match="no log-probabilities"):
            model.score([(Message("user", "p"),)], ["a"])
        with pytest.raises(UsageError, match="is plain text"):
            model.generate([(Message("user", "p"),), "text"], 5)
    assert not fake.requests
