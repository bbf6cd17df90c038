"""Normalize texts for splits, which ignore differences in case, spacing and Unicode form."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from tunesmith.records import (
    Completion,
    Preference,
    Prompt,
    Record,
    Text,
    UnpairedPreference,
    last_exchange,
)
from tunesmith_data.near_duplicates.character_map import CharacterMap
from tunesmith_data.text import content_key


def normalize_text(text: str) -> str:
    """Normalize a text for comparison: apply NFKC, fold case, and collapse white space.

    The function is idempotent. Folding follows Unicode's rule for caseless identifiers (section
    3.13, D146).
    """
    return normalize_texts([text])[0]


def normalize_texts(texts: Sequence[str]) -> list[str]:
    """Apply :func:`normalize_text` to many texts at once, which is faster."""
    others = iter(_FOLDED.apply([text for text in texts if not text.isascii()]))
    folded = (text.lower() if text.isascii() else next(others) for text in texts)
    return [
        # str.isprintable() is False for all white space except the plain space.
        text.strip(" ") if text.isprintable() and "  " not in text else " ".join(text.split())
        for text in folded
    ]


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFD", text).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    return unicodedata.normalize("NFKC", folded)


_FOLDED = CharacterMap(_fold)


def prompt_text(record: Record) -> str:
    """Return the prompt text that records are clustered by.

    It is the prompt of the last answer, without system messages, because many rows share those. For
    a record without a prompt, it is the whole content.
    """
    match record:
        case Text():
            return record.text
        case Completion():
            return record.prompt.strip() or content_key(record)
        case Preference() | UnpairedPreference():
            return _text(record.prompt) or content_key(record)
        case _:
            return _text(last_exchange(record)[0]) or content_key(record)


class PromptTexts:
    """The prompt texts of records, computed on access."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> str:
        return prompt_text(self._records[index])

    def __iter__(self) -> Iterator[str]:
        return map(prompt_text, self._records)


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt.strip()
    return "\n".join(message.shown_text for message in prompt if message.role != "system").strip()
