"""Split rows into parts that are trained on or not, as ``tunesmith check`` shows them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tunesmith.records import (
    Chat,
    Completion,
    Feature,
    Message,
    Preference,
    Record,
    Text,
    UnpairedPreference,
)
from tunesmith.text import format_count
from tunesmith_data.text import content_key


class RecordPart(NamedTuple):
    """A part of a record, with its label, its text, and whether the model is trained on it."""

    label: str
    text: str
    is_trained: bool


def choose_rows(records: Sequence[Record], seed: int) -> dict[str, Record]:
    """Return sample rows by the reason for choosing them: first, longest, random."""
    if not records:
        return {}
    longest, _ = max(enumerate(records), key=lambda item: len(content_key(item[1])))
    reasons = {longest: "longest", 0: "first"}
    others = [index for index in range(len(records)) if index not in reasons]
    if others:
        reasons[random.Random(seed).choice(others)] = "random"
    return {reason: records[index] for index, reason in sorted(reasons.items())}


def split_by_training(record: Record, trains_on: frozenset[Feature]) -> list[RecordPart]:
    """Split a record into parts, and mark those that a technique trains on."""
    match record:
        case Text():
            return [RecordPart("text", record.text, True)]
        case Completion():
            return [
                RecordPart("user", record.prompt, False),
                RecordPart("assistant", record.completion, True),
            ]
        case Chat():
            return [part for message in record.messages for part in _parts(message)]
        case Preference():
            return [
                *_prompt_parts(record.prompt),
                RecordPart("chosen", record.chosen, True),
                RecordPart("rejected", record.rejected, "rejected" in trains_on),
            ]
        case UnpairedPreference():
            label = "good" if record.label else "bad"
            return [*_prompt_parts(record.prompt), RecordPart(label, record.completion, True)]
        case _:
            raise TypeError(f"unknown kind of record: {type(record).__name__}")


def summarize(records: Sequence[Record], trains_on: frozenset[Feature]) -> list[str]:
    """Return a line for each kind of record, with counts of its contents."""
    counts: dict[type[Record], Counter[str]] = {}
    for record in records:
        found = counts.setdefault(type(record), Counter())
        found["rows"] += 1
        found.update(_contents(record))
    lines = []
    for kind, found in counts.items():
        rows = format_count(found.pop("rows"), "row")
        contents = ", ".join(f"{count:,} {name}" for name, count in found.items())
        lines.append(f"{rows} of {_KINDS[kind]}" + (f": {contents}" if contents else ""))
        if kind is Preference and "rejected" not in trains_on:
            lines[-1] += "; only the chosen answers are trained on"
    return lines


_KINDS: dict[type[Record], str] = {
    Text: "plain text",
    Completion: "prompts and completions",
    Chat: "conversations",
    Preference: "preference pairs",
    UnpairedPreference: "labeled answers",
}


def _contents(record: Record) -> Iterator[str]:
    """Yield a name for each answer, tool or label in a record, for counting them."""
    match record:
        case Chat():
            for message in record.messages:
                yield from ["tool definitions"] * len(message.tools)
                if message.role == "assistant":
                    yield "trained answers" if message.is_trained else "answers with weight 0"
                yield from ["answers with reasoning"] * bool(message.reasoning)
                yield from ["tool calls"] * len(message.tool_calls)
        case UnpairedPreference():
            yield "good" if record.label else "bad"


def _prompt_parts(messages: Sequence[Message]) -> list[RecordPart]:
    return [part._replace(is_trained=False) for message in messages for part in _parts(message)]


def _parts(message: Message) -> Iterator[RecordPart]:
    """Yield the parts of a message: tools, reasoning, text and tool calls."""
    for definition in message.tools:
        name = json.loads(definition).get("function", {}).get("name", "")
        yield RecordPart("tool", f"{name} {definition}", False)
    trained = message.is_trained
    if message.reasoning:
        yield RecordPart("reasoning", message.reasoning, trained)
    if message.has_weights and not message.media:
        for part in message.text_parts:
            weight = message.weight * part.weight
            yield RecordPart(_weighted(message.role, weight), part.text, trained and weight > 0)
    elif message.shown_text or not message.tool_calls:
        yield RecordPart(_weighted(message.role, message.weight), message.readable_text, trained)
    for call in message.tool_calls:
        yield RecordPart("call", f"{call.name} {call.arguments}", trained)


def _weighted(role: str, weight: float) -> str:
    return role if weight in (0, 1) or role != "assistant" else f"{role} ×{weight:g}"
