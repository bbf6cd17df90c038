"""Read stored completions of OpenAI's chat API, and exports of Langfuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tunesmith_data import RowError, json_type
from tunesmith_traces.trace import JSON, Trace

_LABELS = ("model", "name", "version", "environment", "release")


def read_openai(row: JSON) -> Iterator[Trace]:
    """Yield the call of a row: a completion with ``messages``, or ``request`` and ``response``.

    Raises:
        RowError: the call has no messages or no answer.
    """
    request, response = row.get("request") or row, row.get("response") or row
    request, response = request.get("body") or request, response.get("body") or response
    metadata = row.get("metadata") or request.get("metadata") or {}
    failed = bool(row.get("error") or response.get("error"))
    if not request.get("messages"):
        hint = "store the messages of each completion under `messages`, beside its choices"
        raise RowError("the completion has no messages", hint=hint)
    choice = {"message": {}} if failed else response["choices"][0]
    yield Trace(
        conversation=str(metadata.get("conversation_id") or response.get("id")),
        prompt=request["messages"],
        answer=choice["message"],
        tools=request.get("tools") or (),
        finish_reason=str(choice.get("finish_reason")),
        failed=failed,
        scores=metadata,
        labels={"model": response.get("model", ""), **metadata},
    )


def read_langfuse(row: JSON) -> Iterator[Trace]:
    """Yield the generations of an observation or trace; other observations are not calls.

    Raises:
        RowError: a generation has no answer.
    """
    for observation in row.get("observations") or [row]:
        if str(observation.get("type") or "GENERATION") == "GENERATION":
            yield _read_generation(observation, row)


def _read_generation(row: JSON, trace: JSON) -> Trace:
    given, failed = _parse(row.get("input")), row.get("level") == "ERROR"
    tools = given.get("tools") if isinstance(given, dict) else None
    session = find(trace, "sessionId") or find(row, "traceId") or trace.get("id")
    return Trace(
        conversation=str(session),
        prompt=_read_prompt(given),
        answer={} if failed else _read_answer(_parse(row.get("output"))),
        tools=tools or (),
        finish_reason=str(find(row, "finishReason")),
        failed=failed,
        scores=_read_scores(trace, row.get("id")) | _read_scores(row, row.get("id")),
        labels={key: row.get(key) or trace.get(key, "") for key in _LABELS},
    )


def find(row: JSON, name: str) -> Any:
    """Return a value by its name, which some exports write in snake case."""
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
    return row.get(name, row.get(snake))


def _parse(value: Any) -> Any:
    """Return the value of a text that is JSON; other texts stay as they are."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{", '"')):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _read_prompt(given: Any) -> list[JSON]:
    if isinstance(given, dict):
        given = given.get("messages", given.get("prompt", [given]))
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _read_answer(output: Any) -> JSON:
    if isinstance(output, dict) and output.get("choices"):
        output = output["choices"][0]["message"]
    output = output[-1] if isinstance(output, list) and output else output
    if isinstance(output, str):
        return {"content": output}
    if not isinstance(output, dict) or not {"content", "tool_calls"} & output.keys():
        raise RowError("`output` is not an answer", json_type(output))
    return output


def _read_scores(row: JSON, observation: object) -> dict[str, Any]:
    """Return the scores of a row by name, without those of other observations."""
    scores = _parse(row.get("scores"))
    if isinstance(scores, dict):  # lists of values by name
        return {k: v[-1] if isinstance(v, list) and v else v for k, v in scores.items()}
    own = [s for s in scores or () if find(s, "observationId") in (None, observation)]
    return {s["name"]: find(s, "stringValue") or s.get("value") for s in own}
