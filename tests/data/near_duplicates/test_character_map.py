"""Texts that are converted together: the same as one by one."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_data.near_duplicates.character_map import CharacterMap


def fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def fold_and_drop(text: str) -> str:
    return "".join(c for c in fold(text) if unicodedata.category(c)[0] not in "PZC")


MAPS = {function: CharacterMap(function) for function in (fold, fold_and_drop)}
TEXTS = (
    "“Größe” – ½ … ﬁ ǅ ΑΣ ς K Å",
    "e\u0301 \u0301e a\u0323\u0307 \u0344 \u0345 ᾳ",  # marks, also without a letter
    "각 \u1100\u1161\u11a8 \u1100\u1161 \uac00\u11a8",  # syllables and their parts
    "नमस्ते ไทย 漢字 かﾞ ｶﾞ 👩‍💻 ❤\ufe0f \U0001d54f",
    "\ud800 \udfff",
    "",
    "ASCII",
)


@pytest.mark.parametrize("function", MAPS)
def test_texts_are_converted_as_one_by_one(function: Callable[[str], str]) -> None:
    for texts in (TEXTS, TEXTS[::-1], TEXTS[:1], ()):
        assert MAPS[function].apply(texts) == [function(text) for text in texts]
    long = "Ä" * 300_000
    assert MAPS[function].apply([long, "É", long]) == ["ä" * 300_000, "é", "ä" * 300_000]


@pytest.mark.parametrize("function", MAPS)
@given(texts=st.lists(st.text(max_size=12), max_size=6))
def test_random_texts(function: Callable[[str], str], texts: list[str]) -> None:
    assert MAPS[function].apply(texts) == [function(text) for text in texts]
