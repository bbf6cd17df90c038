"""The view of a record that the checks share: its texts, made once for all of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
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
from tunesmith_data.near_duplicates.character_map import CharacterMap
from tunesmith_data.text import content_key

Part = Literal["train", "dev", "heldout"]


@dataclass(eq=False)
class Row:
    """The texts of a record."""

    record: Record
    part: Part
    number: int
    """The position of the record in its part."""
    text: str
    """All texts of the record."""
    prompt: str
    """All turns before the last answer; empty for plain text."""
    question: str
    """The last turn before the answer."""
    answer: str
    """The last answer, which is the chosen one of a pair; empty for plain text."""

    @property
    def source(self) -> str:
        """``file:line`` of the record."""
        return self.record.source

    @cached_property
    def prompt_letters(self) -> bytes:
        """The letters and digits of the prompt."""
        return letters(self.prompt)

    @cached_property
    def answer_letters(self) -> bytes:
        """The letters and digits of the answer."""
        return letters(self.answer)

    @cached_property
    def text_letters(self) -> bytes:
        """The letters and digits of all texts."""
        return letters(self.text)

    @cached_property
    def prompt_words(self) -> str:
        """The words and symbols of the prompt."""
        return words(self.prompt)

    @property
    def question_words(self) -> str:
        """The words and symbols of the last turn before the answer."""
        return self.prompt_words if self.question == self.prompt else words(self.question)

    @property
    def has_right_answer(self) -> bool:
        """Return True if the answer is the one to learn, and not one of several or a bad one."""
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
    question = turns[-1] if turns else ""
    return Row(record, part, number, text, "\n".join(turns), question, _answer_text(answer))


def _texts(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message.text for message in prompt]


def _answer_text(answer: Message) -> str:
    if not answer.tool_calls:
        return answer.text
    calls = (f"{call.name} {call.arguments}" for call in answer.tool_calls)
    return "\n".join((answer.text, *calls))


_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())


def letters(text: str) -> bytes:
    """Return the letters and digits of a text as UTF-8, in one case.

    Marks and symbols beyond ASCII count too. A text that has nothing else, such as a smiley, is
    returned without the spaces around it.
    """
    return letters_of([text])[0]


def letters_of(texts: Sequence[str]) -> list[bytes]:
    """Return the :func:`letters` of many texts, which is faster than one after the other."""
    others = iter(_FOLDED.apply([text for text in texts if not text.isascii()]))
    folded = (text.lower() if text.isascii() else next(others) for text in texts)
    kept = (text.encode("utf-8", "surrogatepass").translate(None, _NO_LETTERS) for text in folded)
    return [
        found or text.strip().encode("utf-8", "surrogatepass")
        for found, text in zip(kept, texts, strict=True)
    ]


@cache
def _no_letters() -> re.Pattern[str]:
    """Return a pattern of the punctuation, spaces and invisible characters beyond ASCII."""
    codes = (
        chr(code)
        for code in range(0x80, 0x10000)
        if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
    )
    return re.compile(f"[{''.join(c for c in codes if unicodedata.category(c)[0] in 'PZC')}]+")


def _fold(text: str) -> str:
    """Return a text in one case, without what is no letter beyond ASCII."""
    return _no_letters().sub("", unicodedata.normalize("NFKC", text).casefold())


_FOLDED = CharacterMap(_fold)


def words(text: str) -> str:
    """Return a text in one case, with single spaces, and without punctuation at its end.

    Symbols count, unlike in :func:`letters`: 3 + 2 and 3 - 2 have different answers.
    """
    folded = text.casefold()
    if "  " in folded or not folded.isprintable():  # all spaces but " " are not printable
        folded = " ".join(folded.split())
    return folded.strip(" ").rstrip(" .,;:?!")
