"""Punctuation is blanked by its place, and symbols that change what a text asks are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_data.near_duplicates import compute_text_keys, find_nearest
from tunesmith_data.near_duplicates.features import fold_case_and_spelling
from tunesmith_data.near_duplicates.punctuation import blank_punctuation

EQUAL = [
    ("card arrived?", "card arrived"),
    ("Is it C++?", "is it c++"),
    ("don't", "don’t"),
    ("my top-up failed", "my top up failed"),
    ("Hello,my card", "hello my card"),
    ('the "card" arrived', "the card arrived"),
    ("Où est ma carte ?", "où est ma carte"),
    ("wait… please!!", "wait... please"),
    ("¿Dónde está?", "dónde está"),
    ("it — is", "it is"),
    ("您的来信。", "您的来信"),
    ("12+7", "12 + 7"),
    ("5 − 3", "5 – 3"),
]
DIFFERENT = [
    ("What is 12 + 7?", "What is 12 - 7?"),
    ("use C", "use C++"),
    ("C#", "C"),
    ("A+", "A-"),
    ("-1", "1"),
    ("!x", "x"),
    ("<5", ">5"),
    ("a == b", "a != b"),
    ("good :)", "good :("),
    ("good :)", "good"),
    ("5!", "5?"),
    ("x²", "x2"),
    ("3.5", "35"),
    ("1 23", "12 3"),
    ("10:30", "1030"),
    ("f(x)", "f'(x)"),
    ("[1]", "1"),
    ("what does ! mean", "what does ? mean"),
    ("x ? y : z", "x : y ? z"),
    ("ls -l", "ls l"),
    ("?", "!"),
    ("5 %", "5 $"),
]


def key(text: str) -> int:
    return int(compute_text_keys([text])[0])


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_punctuation_does_not_count(one: str, other: str) -> None:
    assert key(one) == key(other) > 0


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_symbols_count(one: str, other: str) -> None:
    assert key(one) != key(other)


@given(st.text(alphabet="aB1 .,;:?!'\"-—+=()\n", max_size=30))
def test_blanks_keep_the_length_and_the_key(text: str) -> None:
    (folded,) = fold_case_and_spelling([text])
    blank = blank_punctuation(folded)
    assert len(blank) == len(folded)
    assert all(new in (old, " ") for old, new in zip(folded, blank, strict=True))
    assert key(f"  {text}\n") == key(text)


def test_equal_keys_have_equal_features() -> None:
    """Else the first of two equal texts would decide what resembles them, and so the order."""
    texts = ["Pay pal is down", "paypal is down", "PayPal is down!"]
    for query in ("pal is down now", "paypal is down now"):
        found = {
            match and match.words for text in texts[1:] for match in find_nearest([text], [query])
        }
        assert len(found) == 1
    assert key(texts[0]) != key(texts[1]) == key(texts[2])
