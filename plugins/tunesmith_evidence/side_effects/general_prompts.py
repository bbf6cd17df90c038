"""Read general prompts and texts, which measure the side effects of training on a narrow task."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.records import Chat, Message, Text
from tunesmith_evidence.answers.normalize import normalize_unicode, strip_reasoning
from tunesmith_evidence.answers.whole_words import build_whole_word_pattern

__all__ = ["GeneralPrompt", "read_general_prompts", "read_general_texts", "score_answers"]

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
_EDGES = "\"'`“”„«»‘’*.,;:!? "
UNKNOWN = re.compile(
    r"\b(?:(?:do|does|did|is|are|was|has|can|could)(?: not|n['’]t)|no such|not (?:a |an )?"
    r"(?:real|known|aware|familiar|sure)|fictional|imaginary|invented|made[- ]up|unknown|unable|"
    r"no information|kein\w*|nicht|unbekannt|erfunden\w*|fiktiv\w*|n['’](?:existe|est|ai)|"
    r"ne (?:connais|sais)|inconnu\w*|fictif|no existe|no conozco|no sé|desconocid\w+)\b",
    re.IGNORECASE,
)
"""Matches a phrase for a thing that does not exist or is not known, in several languages."""


@dataclass(frozen=True)
class GeneralPrompt:
    """A prompt unrelated to the task, with the conditions that a right answer meets."""

    kind: str
    """The ability that the prompt tests, such as ``arithmetic``."""
    prompt: str
    conditions: Mapping[str, Any]
    """The conditions, described at the top of ``general_prompts.toml``."""
    pair: str = ""
    """Name of the pair of a real and an invented thing, or "" if the prompt is not in a pair."""

    def is_right(self, answer: str) -> bool:
        """Return True if an answer, without its reasoning, meets every condition."""
        text = strip_reasoning(answer).strip()
        return bool(text) and all(
            _CHECKS[name](text, wanted) for name, wanted in self.conditions.items()
        )

    def to_record(self, number: int) -> Chat:
        """Return the prompt as a record whose answer describes the conditions."""
        expected = "; ".join(f"{name}: {wanted}" for name, wanted in self.conditions.items())
        return Chat(
            source=f"general prompt {number}",
            messages=(Message("user", self.prompt), Message("assistant", expected)),
            group=self.pair or f"general prompt {number}",
            slices=(("kind", self.kind),),
        )


@cache
def read_general_prompts() -> tuple[GeneralPrompt, ...]:
    """Return the general prompts, in a fixed order."""
    kinds = tomllib.loads(_read("general_prompts.toml"))
    return tuple(
        GeneralPrompt(kind, row.pop("prompt"), pair=row.pop("pair", ""), conditions=row)
        for kind, rows in kinds.items()
        for row in rows
    )


@cache
def read_general_texts() -> tuple[Text, ...]:
    """Return general texts in four languages."""
    texts = tomllib.loads(_read("general_texts.toml"))["texts"]
    return tuple(Text(source=f"general text {n}", text=text) for n, text in enumerate(texts, 1))


def score_answers(prompts: Sequence[GeneralPrompt], answers: Sequence[str]) -> tuple[float, ...]:
    """Return 1 for each right answer and 0 for others.

    Some prompts come in pairs, about a real and an invented thing. "Unknown" is only right for the
    invented thing if the model knows the real one.
    """
    right = [prompt.is_right(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    known = {
        prompt.pair
        for prompt, is_right in zip(prompts, right, strict=True)
        if is_right and "unknown" not in prompt.conditions
    }
    return tuple(
        float(is_right and ("unknown" not in prompt.conditions or prompt.pair in known))
        for prompt, is_right in zip(prompts, right, strict=True)
    )


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _fold(text: str) -> str:
    """Fold case, white space and the space after commas, and remove quotes and end punctuation."""
    folded = re.sub(r"\s*,\s*", ", ", normalize_unicode(text).casefold())
    return folded.strip(_EDGES)


def _find_words(text: str, phrases: str) -> bool:
    folded = normalize_unicode(text).casefold()
    options = (normalize_unicode(phrase).casefold() for phrase in phrases.split("|"))
    return any(re.search(build_whole_word_pattern(option), folded) for option in options)


def _is_number(text: str, wanted: float) -> bool:
    found = _NUMBER.findall(text)
    try:
        return bool(found) and float(found[-1].replace(",", "")) == wanted
    except ValueError:
        return False


def _is_json(text: str, wanted: Mapping[str, Any]) -> bool:
    start = text.find("{")
    try:
        return start >= 0 and bool(json.JSONDecoder().raw_decode(text, start)[0] == wanted)
    except (ValueError, RecursionError):
        return False


_CHECKS: Mapping[str, Any] = {
    "equals": lambda text, wanted: _fold(text.split("\n", 1)[0]) in map(_fold, wanted.split("|")),
    "contains": lambda text, wanted: all(_find_words(text, phrases) for phrases in wanted),
    "without": lambda text, wanted: not _find_words(text, wanted),
    "matches": lambda text, wanted: re.fullmatch(wanted, text, re.DOTALL) is not None,
    "number": _is_number,
    "words": lambda text, wanted: len(text.split()) == wanted,
    "min_words": lambda text, wanted: len(text.split()) >= wanted,
    "max_words": lambda text, wanted: len(text.split()) <= wanted,
    "json": _is_json,
    "unknown": lambda text, wanted: (UNKNOWN.search(text) is not None) == wanted,
}
