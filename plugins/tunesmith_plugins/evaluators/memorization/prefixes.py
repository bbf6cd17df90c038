"""Split rows into a prefix and a continuation, and test if a model reproduces the continuation."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Generation, TextModel
from tunesmith.records import Prompt, Record, Text, UnpairedPreference, last_exchange

Prefix = tuple[Prompt, str]
"""The start of a row, and its continuation."""


def split_row(record: Record, min_words: int) -> Prefix | None:
    """Return the start of a row and its continuation, or None if the continuation is too short.

    Cut a plain text at the last space before its middle. For other rows, the prompt is the start
    and the answer is the continuation. Skip answers that call tools or are labeled bad.
    """
    if isinstance(record, Text):
        cut = record.text.rfind(" ", 0, len(record.text) // 2 + 1)
        prompt: Prompt = record.text[: max(cut, 0)]
        rest = record.text[max(cut, 0) :].strip()
    elif isinstance(record, UnpairedPreference) and not record.label:
        return None
    else:
        prompt, answer = last_exchange(record)
        rest = "" if answer.tool_calls else answer.text.strip()
    return (prompt, rest) if prompt and len(rest.split()) >= min_words else None


def choose_rows(
    records: Sequence[Record], most: int, min_words: int
) -> list[tuple[Record, Prefix]]:
    """Return at most ``most`` rows that have a continuation, evenly spread."""
    found = [(record, split) for record in records if (split := split_row(record, min_words))]
    step = -(-len(found) // most) or 1
    return found[::step]


def measure_reproduction(
    model: TextModel, prefixes: Sequence[Prefix], tokens: int
) -> list[tuple[bool, str]]:
    """Return whether the model reproduces each row's continuation, and the generated texts.

    The model generates at most ``tokens`` tokens greedily. See :func:`is_reproduced`.
    """
    generated = model.generate([prompt for prompt, _ in prefixes], tokens)
    return [
        (is_reproduced(found, rest), found.text)
        for found, (_, rest) in zip(generated, prefixes, strict=True)
    ]


def is_reproduced(found: Generation, rest: str) -> bool:
    """Return True if the continuation starts with the generated text, ignoring outer white space.

    If the model ended its answer before the token limit, the text must be the whole continuation.
    """
    text = found.text.strip().rstrip("\N{REPLACEMENT CHARACTER}")
    if found.finish_reason == "stop":
        return text == rest
    return bool(text) and rest.startswith(text)
