"""Read spans of OpenTelemetry that follow the semantic conventions for generative AI.

A row is a line of an OTLP JSON file, with many spans, or a single span as the console exporter
writes it. https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

from tunesmith_data import RowError
from tunesmith_traces.completions import find
from tunesmith_traces.trace import JSON, Call, Trace, choose_score, read_time

_CALLS = (None, "chat", "generate_content", "text_completion")
_FAILED = (2, "ERROR", "STATUS_CODE_ERROR")
_SCORE = "gen_ai.evaluation.score"


def read_otel(row: JSON) -> Iterator[Call]:
    """Yield each span of a row; spans of tools, agents and others are not calls."""
    for resource in row.get("resourceSpans") or [{"scopeSpans": [{"spans": [row]}]}]:
        for scope in resource.get("scopeSpans") or ():
            yield from (partial(_read_span, span) for span in scope.get("spans") or ())


def _read_span(span: JSON) -> Trace | None:
    found, scores = _read_attributes(span.get("attributes")), {}
    for event in sorted(span.get("events") or (), key=_read_event_time):
        facts = _read_attributes(event.get("attributes"))
        score = choose_score(facts.get(f"{_SCORE}.label"), facts.get(f"{_SCORE}.value"))
        if score is not None:
            scores[str(facts.get("gen_ai.evaluation.name"))] = score
        else:
            found |= facts
    is_call = found.get("gen_ai.operation.name") in _CALLS
    if not is_call or not any(name.startswith("gen_ai.") for name in found):
        return None
    return _read_call(span, found, scores)


def _read_event_time(event: JSON) -> Decimal:
    return read_time(event.get("timeUnixNano") or event.get("timestamp"))


def _read_call(span: JSON, found: JSON, scores: JSON) -> Trace:
    """Return the call of a span.

    Raises:
        RowError: the span has no messages or no answer.
    """
    status = span.get("status") or {}
    failed = status.get("code", status.get("status_code")) in _FAILED
    given, answers = _parse(found, "gen_ai.input.messages"), _parse(found, "gen_ai.output.messages")
    if not (given and answers) and not failed:
        raise RowError(
            "a span of a call has no messages",
            str(found.get("gen_ai.request.model", "")),
            hint="let the instrumentation record messages: for most of them, set "
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        )
    system = _parse(found, "gen_ai.system_instructions")
    given = [*([{"role": "system", "parts": system}] if system else []), *given]
    context = span.get("context") or {}
    trace = find(span, "traceId") or context.get("trace_id") or ""
    listed = found.get("gen_ai.response.finish_reasons")
    reasons = [answer.get("finish_reason") for answer in answers[:1]]
    reasons += listed if isinstance(listed, list) else [listed]
    return Trace(
        conversation=str(found.get("gen_ai.conversation.id") or trace),
        prompt=[message for item in given for message in _to_messages(item)],
        answer={} if failed else _to_messages(answers[0])[0],
        tools=[_to_tool(tool) for tool in _parse(found, "gen_ai.tool.definitions")],
        finish_reason=str(next(filter(None, reasons), "")),
        failed=failed,
        scores={**found, **scores},
        labels={"model": found.get("gen_ai.request.model", ""), **found},
    )


def _parse(attributes: JSON, name: str) -> list[Any]:
    """Return an attribute that is a list, or its JSON text."""
    value = attributes.get(name) or []
    return list(json.loads(value) if isinstance(value, str) else value)


def _read_attributes(attributes: Any) -> JSON:
    """Return attributes by name; OTLP writes them as a list of keys and typed values."""
    if isinstance(attributes, dict):
        return dict(attributes)
    return {item["key"]: _plain(item["value"]) for item in attributes or ()}


def _plain(value: JSON) -> Any:
    if not value:  # OTLP writes null as an empty object
        return None
    ((kind, found),) = value.items()
    if kind == "arrayValue":
        return [_plain(item) for item in found.get("values") or ()]
    if kind == "kvlistValue":
        return _read_attributes(found.get("values"))
    return int(found) if kind == "intValue" else found


def _to_messages(message: JSON) -> list[JSON]:
    """Return a message of parts in the form of OpenAI's chat API, one for each tool result.

    Raises:
        RowError: a part is neither text, reasoning, a tool call nor its result.
    """
    texts, reasoning, calls, results = [], [], [], []
    for part in message["parts"]:
        match part["type"]:
            case "text":
                texts.append(part["content"])
            case "reasoning":
                reasoning.append(part["content"])
            case "tool_call":
                text = _to_text(part.get("arguments") or {})
                function = {"name": part["name"], "arguments": text}
                calls.append({"id": part.get("id"), "type": "function", "function": function})
            case "tool_call_response":
                text = _to_text(part.get("response", part.get("result")))
                results.append({"role": "tool", "tool_call_id": part.get("id"), "content": text})
            case kind:
                raise RowError("a message has a part that is not text", f"part of type {kind!r}")
    found: JSON = {"role": message["role"], "content": "".join(texts)}
    found |= {"tool_calls": calls} if calls else {}
    found |= {"reasoning_content": "\n".join(reasoning)} if reasoning else {}
    return results or [found]


def _to_tool(tool: JSON) -> JSON:
    """Return the definition of a tool in the form of OpenAI's chat API."""
    function = {key: value for key, value in tool.items() if key != "type"}
    return tool if "function" in tool else {"type": "function", "function": function}


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
