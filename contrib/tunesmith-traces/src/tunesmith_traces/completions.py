"""Read stored completions of OpenAI's chat API, and exports of Langfuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

from tunesmith_data import RowError, json_type
from tunesmith_traces.trace import JSON, Call, Trace, choose_score, read_time

_LABELS = ("model", "name", "version", "environment", "release")


def read_openai(row: JSON) -> Iterator[Call]:
    """Yield the call of a row: a completion with ``messages``, or ``request`` and ``response``."""
    yield partial(_read_completion, row)


def _read_completion(row: JSON) -> Trace:
    """Return the call of a row.

    Raises:
        RowError: the call has no messages or no answer.
    """
    request, response = row.get("request") or row, row.get("response") or row
    request = request.get("body") or request
    if isinstance(response, list):
        response = _join_chunks(response)
    response = response.get("body") or response
    metadata = row.get("metadata") or request.get("metadata") or {}
    failed = bool(row.get("error") or response.get("error"))
    if not request.get("messages"):
        hint = "store the messages of each completion under `messages`, beside its choices"
        raise RowError("the completion has no messages", hint=hint)
    choice = {"message": {}} if failed else response["choices"][0]
    return Trace(
        conversation=str(metadata.get("conversation_id") or response.get("id") or ""),
        prompt=request["messages"],
        answer=choice["message"],
        tools=request.get("tools") or (),
        finish_reason=str(choice.get("finish_reason")),
        failed=failed,
        scores=metadata,
        labels={"model": response.get("model", ""), **metadata},
    )


def _join_chunks(chunks: list[JSON]) -> JSON:
    """Return the completion whose chunks were streamed, with its first choice."""
    texts, calls, reason = [], dict[int, JSON](), None
    choices = [choice for chunk in chunks for choice in chunk.get("choices") or ()]
    for choice in choices:
        if choice.get("index"):
            continue
        delta, reason = choice.get("delta") or {}, choice.get("finish_reason") or reason
        texts.append(delta.get("content") or "")
        for part in delta.get("tool_calls") or ():
            call = calls.setdefault(part["index"], {"type": "function", "function": {}})
            call |= {"id": part["id"]} if part.get("id") else {}
            for key, text in (part.get("function") or {}).items():
                call["function"][key] = call["function"].get(key, "") + (text or "")
    if reason is None:
        raise RowError("the stream of chunks has no end")
    message: JSON = {"content": "".join(texts)}
    message |= {"tool_calls": [calls[n] for n in sorted(calls)]} if calls else {}
    head = {key: value for key, value in chunks[0].items() if key in ("id", "model")}
    return {**head, "choices": [{"message": message, "finish_reason": reason}]}


def read_langfuse(row: JSON) -> Iterator[Call]:
    """Yield the observations of a row; only generations are calls."""
    for observation in row.get("observations") or [row]:
        yield partial(_read_observation, observation, row)


def _read_observation(row: JSON, trace: JSON) -> Trace | None:
    """Return the call of a generation, or None for other observations.

    Raises:
        RowError: the generation has no answer.
    """
    if str(row.get("type") or "GENERATION") != "GENERATION":
        return None
    given, failed = _parse(row.get("input")), row.get("level") == "ERROR"
    tools = given.get("tools") if isinstance(given, dict) else None
    session = find(trace, "sessionId") or find(row, "traceId") or trace.get("id") or ""
    output = _parse(row.get("output"))
    choices = output.get("choices") if isinstance(output, dict) else None
    choice = choices[0] if choices else {"message": output}
    return Trace(
        conversation=str(session),
        prompt=_read_prompt(given),
        answer={} if failed else _read_answer(choice["message"], row.get("output")),
        tools=tools or (),
        finish_reason=str(choice.get("finish_reason") or find(row, "finishReason")),
        failed=failed,
        scores=_read_scores(trace, row.get("id")) | _read_scores(row, row.get("id")),
        labels={key: row.get(key) or trace.get(key) or "" for key in _LABELS},
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
    if not isinstance(given, dict):
        return [{"role": "user", "content": given}] if isinstance(given, str) else given
    messages = _read_prompt(given.get("messages", given.get("prompt", [given])))
    system = given.get("system")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _read_answer(output: Any, text: Any) -> JSON:
    """Return an answer as a message; ``text`` is the output as it was recorded."""
    message = output[-1] if isinstance(output, list) and output else output
    if isinstance(message, dict) and {"content", "tool_calls"} & message.keys():
        return message
    answer = output if isinstance(output, str) else text
    if not isinstance(answer, str):  # a text can be the JSON that was asked for
        raise RowError("`output` is not an answer", json_type(output))
    return {"content": answer}


def _read_scores(row: JSON, observation: object) -> dict[str, Any]:
    """Return the scores of a row by name, without those of other observations."""
    scores = _parse(row.get("scores"))
    if isinstance(scores, dict):  # lists of values by name
        return {k: v[-1] if isinstance(v, list) and v else v for k, v in scores.items()}
    own = [s for s in scores or () if find(s, "observationId") in (None, observation)]
    own.sort(key=_read_score_time)  # the last one counts
    return {s["name"]: choose_score(find(s, "stringValue"), s.get("value")) for s in own}


def _read_score_time(score: JSON) -> Decimal:
    return read_time(score.get("timestamp") or find(score, "createdAt"))
