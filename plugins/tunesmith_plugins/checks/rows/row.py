"""Extract the texts of a record once for all checks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from typing import Literal

from tunesmith.records import (
    Completion,
    Message,
    Preference,
    Prompt,
    Record,
    Text,
    UnpairedPreference,
    exchanges,
)
from tunesmith_data.near_duplicates.features import fold_case_and_spelling
from tunesmith_data.near_duplicates.punctuation import blank_punctuation
from tunesmith_data.text import content_key
from tunesmith_evidence.tasks.examples import last_question

Part = Literal["train", "validation", "test"]


@dataclass(eq=False)
class Row:
    """The texts of a record, with the properties that checks derive from them."""

    record: Record
    part: Part
    number: int
    """The index of the record in its split."""
    text: str
    """All texts of the record."""
    prompt: str
    """All turns before the last answer, or "" for plain text."""
    question: str
    """The last user turn before the answer, or "" if there is none."""
    answer: str
    """The last answer, the chosen answer of a pair, or "" for plain text."""

    @property
    def source(self) -> str:
        """The source of the record, ``file:line``."""
        return self.record.source

    @cached_property
    def prompt_signs(self) -> bytes:
        """The letters, digits and symbols of the prompt."""
        return fold_signs([self.prompt])[0]

    @cached_property
    def answer_signs(self) -> bytes:
        """The letters, digits and symbols of the answer."""
        return fold_signs([self.answer])[0]

    @cached_property
    def text_signs(self) -> bytes:
        """The letters, digits and symbols of all texts."""
        return fold_signs([self.text])[0]

    @cached_property
    def prompt_words(self) -> str:
        """The prompt, normalized by :func:`normalize_words`."""
        return normalize_words(self.prompt)

    @property
    def question_words(self) -> str:
        """The question, normalized by :func:`normalize_words`."""
        return self.prompt_words if self.question == self.prompt else normalize_words(self.question)

    @property
    def has_right_answer(self) -> bool:
        """True if the answer is an example to imitate, not part of a pair, and not rated."""
        return bool(self.answer) and not isinstance(self.record, Preference | UnpairedPreference)


def read_row(record: Record, part: Part = "train", number: int = 0) -> Row | None:
    """Return the texts of a record, or None for a kind of record that a plugin defines."""
    if type(record) is Completion:
        prompt, completion = record.prompt, record.completion
        text = f"{prompt}\n{completion}"
        return Row(record, part, number, text, prompt, prompt, completion)
    try:
        text = content_key(record)
        *_, (asked, answer) = exchanges(record)
    except (TypeError, ValueError):
        return None
    if isinstance(record, Text):
        return Row(record, part, number, text, "", "", "")
    turns = _texts(asked)
    question = last_question(asked)
    return Row(record, part, number, text, "\n".join(turns), question, _answer_text(answer))


def _texts(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message.shown_text for message in prompt]


def _answer_text(answer: Message) -> str:
    if not answer.tool_calls:
        return answer.text
    calls = (f"{call.name} {call.arguments}" for call in answer.tool_calls)
    return "\n".join((answer.text, *calls))


def fold_signs(texts: Sequence[str]) -> list[bytes]:
    """Return the letters, digits and symbols of each text, case-folded, as UTF-8.

    Spaces, punctuation and invisible characters are removed.
    """
    folded = fold_case_and_spelling(texts)
    blank = blank_punctuation("\n".join(folded))
    ends = accumulate(len(text) + 1 for text in folded)
    cut = (blank[end - len(text) - 1 : end - 1] for end, text in zip(ends, folded, strict=True))
    return ["".join(_visible(text).split()).encode("utf-8", "surrogatepass") for text in cut]


def normalize_words(text: str) -> str:
    """Return a text case-folded, with single spaces and without punctuation at the end."""
    folded = text.casefold()
    if "  " in folded or not folded.isprintable():  # all white space except " " is unprintable
        folded = " ".join(folded.split())
    return folded.strip(" ").rstrip(" .,;:?!")


def _visible(text: str) -> str:
    return text if text.isascii() else _invisible().sub("", text)


@cache
def _invisible() -> re.Pattern[str]:
    """Return a pattern that matches runs of invisible non-ASCII characters."""
    codes = (chr(code) for code in range(0x80, 0x10000))
    return re.compile(f"[{''.join(c for c in codes if unicodedata.category(c) in ('Cc', 'Cf'))}]+")
