"""Complete training rows: does a model reproduce how they go on?"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Generation, TextModel
from tunesmith.records import Prompt, Record, Text, UnpairedPreference, last_exchange

Prefix = tuple[Prompt, str]
"""The beginning of a row, and its continuation."""


def split_row(record: Record, min_words: int) -> Prefix | None:
    """Return the beginning of a row and its continuation; None if that is too short.

    A text is cut at the white space before its middle. Of others the prompt is the beginning, and
    the answer its continuation; answers that call tools or are labeled as bad are skipped.
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
    """Return at most ``most`` rows with a continuation, spread evenly over all."""
    found = [(record, split) for record in records if (split := split_row(record, min_words))]
    step = -(-len(found) // most) or 1
    return found[::step]


def reproduce(model: TextModel, prefixes: Sequence[Prefix], tokens: int) -> list[tuple[bool, str]]:
    """Return for each row if its continuation is reproduced, and the text that was generated.

    The model generates greedily, at most ``tokens`` tokens. A continuation is reproduced if the
    text is its beginning, or all of it where the model ended by itself: :func:`is_reproduced`.
    """
    generated = model.generate([prompt for prompt, _ in prefixes], tokens)
    return [
        (is_reproduced(found, rest), found.text)
        for found, (_, rest) in zip(generated, prefixes, strict=True)
    ]


def is_reproduced(found: Generation, rest: str) -> bool:
    """Return True if the generated text is how the row goes on, white space around it ignored."""
    text = found.text.strip().rstrip("\N{REPLACEMENT CHARACTER}")
    if found.finish_reason == "stop":
        return text == rest
    return bool(text) and rest.startswith(text)
