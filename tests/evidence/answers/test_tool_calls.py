"""Tool calls in texts; the evaluator tool-call tests the forms of common models."""

from __future__ import annotations

from tunesmith.records import ToolCall
from tunesmith_evidence.answers.tool_calls import find_tool_calls, parse_tool_call


def test_calls_in_texts_that_only_look_like_json() -> None:
    assert find_tool_calls("{" * 50 + '{"name": "a", "arguments": null}') == [("a", {})]
    assert find_tool_calls('{"name": "a", "arguments": "all"}') == [("a", "all")]


def test_arguments_that_are_not_json_stay_text() -> None:
    assert parse_tool_call(ToolCall("a", '{"b": 1}')) == ("a", {"b": 1})
    assert parse_tool_call(ToolCall("a", "b")) == ("a", "b")
