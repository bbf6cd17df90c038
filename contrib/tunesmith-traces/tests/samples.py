"""The same four calls as each product records them, and the records that they must become."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.records import Chat, Message, Record, ToolCall

JSON = dict[str, Any]
TOOL = {"name": "find", "description": "Find a room.", "parameters": {"type": "object"}}
CALL = {"name": "find", "arguments": '{"room": "4"}'}


def function(call: JSON, **others: str) -> JSON:
    return {**others, "type": "function", "function": call}


def user(text: str) -> JSON:
    return {"role": "user", "content": text}


def answer(text: str) -> JSON:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Name the team."}
CALLS: list[tuple[str, list[JSON], JSON, str]] = [
    ("one", [SYSTEM, user("The wifi is down")], answer("network"), "up"),
    (
        "one",
        [SYSTEM, user("The wifi is down"), answer("network"), user("Sure?")],
        answer("yes"),
        "down",
    ),
    (
        "two",
        [user("Where is room 4?")],
        {"role": "assistant", "content": "", "tool_calls": [function(CALL, id="f1")]},
        "",
    ),
    (
        "two",
        [
            user("Where is room 4?"),
            {"role": "assistant", "content": "", "tool_calls": [function(CALL, id="f1")]},
            {"role": "tool", "tool_call_id": "f1", "content": "floor 2"},
        ],
        answer("On floor 2"),
        "up",
    ),
]
"""Conversation, prompt, answer and feedback of each call; those of ``two`` may call a tool."""


def expected() -> list[Record]:
    """Return the records of the calls, built by hand."""
    tools = (json.dumps(function(TOOL)),)
    asked = Message("user", "Where is room 4?", tools=tools)
    call = ToolCall("find", '{"room": "4"}', id="f1")
    first = (Message("system", "Name the team."), Message("user", "The wifi is down"))
    network = Message("assistant", "network", weight=0)
    turns = [
        ("one", (*first, Message("assistant", "network"))),
        ("one", (*first, network, Message("user", "Sure?"), Message("assistant", "yes"))),
        ("two", (asked, Message("assistant", "", tool_calls=(call,)))),
        (
            "two",
            (
                asked,
                Message("assistant", "", tool_calls=(call,), weight=0),
                Message("tool", "floor 2", tool_call_id="f1"),
                Message("assistant", "On floor 2"),
            ),
        ),
    ]
    return [Chat(source="", messages=messages, group=group) for group, messages in turns]


def tools_of(conversation: str) -> JSON:
    return {"tools": [function(TOOL)]} if conversation == "two" else {}


def openai() -> list[JSON]:
    return [
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "model": "m-1",
            "messages": prompt,
            "choices": [
                {"index": 0, "message": {**reply, "refusal": None}, "finish_reason": "stop"}
            ],
            "metadata": {"conversation_id": name, **({"rating": found} if found else {})},
            **tools_of(name),
        }
        for number, (name, prompt, reply, found) in enumerate(CALLS)
    ]


def requests() -> list[JSON]:
    """The form of proxies: the request and the response of each call."""
    return [
        {
            "request": {"model": "m-1", "messages": row["messages"], **tools_of(name)},
            "response": {"status_code": 200, "body": {"id": "r", "choices": row["choices"]}},
            "metadata": row["metadata"],
        }
        for row, (name, *_) in zip(openai(), CALLS, strict=True)
    ]


def langfuse() -> list[JSON]:
    """Observations with scores, of which one belongs to another observation."""
    return [
        {
            "id": f"o{number}",
            "traceId": name,
            "type": "GENERATION",
            "model": "m-1",
            "level": "DEFAULT",
            "input": {"messages": prompt, **tools_of(name)} if name == "two" else prompt,
            "output": reply if number % 2 else [reply],
            "scores": [{"name": "rating", "value": None, "stringValue": found}] if found else [],
        }
        for number, (name, prompt, reply, found) in enumerate(CALLS)
    ]


def langfuse_export() -> list[JSON]:
    """The export to object storage: snake case, and JSON as text."""
    texts = ("input", "output", "scores")
    renamed = {"traceId": "trace_id"}
    return [
        {renamed.get(k, k): json.dumps(v) if k in texts else v for k, v in row.items()}
        for row in langfuse()
    ]


def langfuse_traces() -> list[JSON]:
    """Traces with their observations, and with the scores of all of them."""
    traces = []
    for name in ("one", "two"):
        own = [row for row in langfuse() if row["traceId"] == name]
        scores = [{**s, "observationId": row["id"]} for row in own for s in row["scores"]]
        inner = [{k: v for k, v in row.items() if k != "scores"} for row in own]
        other = {"id": "x", "type": "SPAN", "input": "a", "output": "b"}
        traces.append({"id": name, "observations": [other, *inner], "scores": scores})
    return traces


def parts(message: JSON) -> JSON:
    """Return a message in the form of the semantic conventions."""
    if message["role"] == "tool":
        part = {
            "type": "tool_call_response",
            "id": message["tool_call_id"],
            "response": message["content"],
        }
        return {"role": "tool", "parts": [part]}
    found = [{"type": "text", "content": message["content"]}] if message["content"] else []
    for call in message.get("tool_calls", ()):
        arguments = json.loads(call["function"]["arguments"])
        name = call["function"]["name"]
        found.append({"type": "tool_call", "id": call["id"], "name": name, "arguments": arguments})
    return {"role": message["role"], "parts": found}


def spans() -> list[JSON]:
    """Spans as the console exporter writes them, with JSON as text."""
    found = []
    for number, (name, prompt, reply, feedback) in enumerate(CALLS):
        system = [m for m in prompt if m["role"] == "system"]
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "m-1",
            "gen_ai.conversation.id": name,
            "gen_ai.input.messages": json.dumps([parts(m) for m in prompt if m not in system]),
            "gen_ai.output.messages": json.dumps([{**parts(reply), "finish_reason": "stop"}]),
        }
        if system:
            text = [{"type": "text", "content": system[0]["content"]}]
            attributes["gen_ai.system_instructions"] = json.dumps(text)
        if name == "two":
            attributes["gen_ai.tool.definitions"] = json.dumps([{"type": "function", **TOOL}])
        score = {"gen_ai.evaluation.name": "rating", "gen_ai.evaluation.score.label": feedback}
        events = [{"name": "gen_ai.evaluation.result", "attributes": score}] if feedback else []
        context = {"trace_id": f"0x{number}", "span_id": "0x1"}
        found.append({"name": "chat m-1", "context": context, "attributes": attributes})
        found[-1] |= {"events": events, "status": {"status_code": "UNSET"}}
    return found


def typed(value: Any) -> JSON:
    """Return a value as OTLP writes it."""
    match value:
        case dict():
            return {"kvlistValue": {"values": typed_pairs(value)}}
        case list():
            return {"arrayValue": {"values": [typed(item) for item in value]}}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case _:
            return {"stringValue": value}


def typed_pairs(values: Mapping[str, Any]) -> list[JSON]:
    return [{"key": name, "value": typed(value)} for name, value in values.items()]


def otlp() -> list[JSON]:
    """Two lines of an OTLP file, with structured attributes and a span of a tool."""
    found = []
    for span in spans():
        attributes = {
            name: json.loads(value) if value[0] in "[{" else value
            for name, value in span["attributes"].items()
        }
        events = [
            {"name": event["name"], "attributes": typed_pairs(event["attributes"])}
            for event in span["events"]
        ]
        found.append({"traceId": "t", "attributes": typed_pairs(attributes), "events": events})
    tool = {"traceId": "t", "attributes": typed_pairs({"gen_ai.operation.name": "execute_tool"})}
    http = {"traceId": "t", "attributes": typed_pairs({"http.request.method": "GET"})}
    lines = ([found[0], tool, *found[1:3]], [http, found[3]])
    return [{"resourceSpans": [{"scopeSpans": [{"spans": line}]}]} for line in lines]


FORMS = {
    form.__name__: form
    for form in (openai, requests, langfuse, langfuse_export, langfuse_traces, spans, otlp)
}


def write(path: Path, rows: list[JSON]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
