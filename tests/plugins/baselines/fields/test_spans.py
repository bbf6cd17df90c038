"""Spans of a text that a field could be copied from."""

from __future__ import annotations

import pytest

from tunesmith_plugins.baselines.fields.spans import (
    MAX_SPANS,
    describe_shape,
    describe_spans,
    find_spans,
)

TEXT = """Subject: lost card
Hello, I am Anna-Lena O'Neil (room B-12) and my card AB 123 456 is lost.
Write to anna@example.org or call +49 30 123456 before 3 May 2024, 9:30.
It says "no entry" at https://example.org/x. I paid $12.50 for two keys"""


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "anna@example.org"), ("url", "https://example.org/x"), ("date", "3 May 2024"),
        ("time", "9:30"), ("number", "two"), ("number", "12.50"), ("id", "B-12"),
        ("letters and digits", "AB 123 456"), ("digits", "+49 30 123456"), ("quoted", "no entry"),
        ("in brackets", "room B-12"), ("after a key", "lost card"),
        ("capitalized", "Anna-Lena O'Neil"), ("line", "Subject: lost card"),
        ("sentence", "Hello, I am Anna-Lena O'Neil (room B-12) and my card AB 123 456 is lost"),
        ("words", "call"), ("words", "my card AB"),
    ],
)  # fmt: skip
def test_kinds_of_spans(kind: str, text: str) -> None:
    spans = find_spans(TEXT, kind, 3)
    assert text in [span.text for span in spans]
    assert all(TEXT[span.start : span.end] == span.text for span in spans)


def test_words_stay_in_their_line_and_are_limited() -> None:
    assert [s.text for s in find_spans("a b\nc", "words", 2)] == ["a", "a b", "b", "c"]
    assert len(find_spans("word " * 2000, "words", 8)) == MAX_SPANS


def test_features_name_form_neighbors_and_place() -> None:
    spans = find_spans(TEXT, "id", 3)
    [features] = [
        f for s, f in zip(spans, describe_spans(TEXT, spans), strict=True) if s.text == "B-12"
    ]
    assert {"kind id", "form A-99", "before room", "after )", "place id 1"} <= set(features)


def test_form() -> None:
    assert describe_shape("Anna-Lena O'Neil") == "Aa-Aa A'Aa"
    assert describe_shape("ORD-48213") == "A-99999"
