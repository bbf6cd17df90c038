"""Texts that stand in another text as wholes."""

from __future__ import annotations

import re

import pytest

from tunesmith_evidence.answers.whole_words import WholeWordFinder, build_whole_word_pattern


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("C++", "C"), ("C#", "C"), ("Objective-C", "C"), ("cards", "card"), ("A*", "A"),
        ("don't", "don"), ("don't", "t"), ("refund's", "refund"), ("non-refund", "refund"),
        ("-1", "1"), ("+1", "1"), ("- 1", "1"), ("1.5", "1"), ("1.5", "5"), (".5", "5"),
        ("1,5", "5"), ("12:30", "12"), ("12:30", "30"), ("<5", "5"), ("5%", "5"), ("5–7", "5"),
        ("5–7", "7"), ("3-1", "1"), ("$5", "5"), ("5°", "5"), ("x=5", "5"), ("a", ""),
    ],
)  # fmt: skip
def test_a_part_is_no_whole(text: str, part: str) -> None:
    assert [*WholeWordFinder([part]).find(f"it is {text} I think")] == []
    assert [*WholeWordFinder([part]).find(text)] == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("card", "card"), ("card.", "card"), ('"card"', "card"), ("(card)", "card"),
        ("topic:card", "card"), ("card/refund", "card"), ("refund/card", "card"),
        ("card—or not", "card"), ("<b>card</b>", "card"), ("‘card’", "card"), ("卡。", "卡"),
        ("C++.", "C++"), ("(C#)", "C#"), ("-1,", "-1"), ("score:1", "1"), ("1.", "1"),
        ("1, 2", "1"), ("[1]", "1"), ("don't,", "don't"), ("1–2", "1–2"),
    ],
)  # fmt: skip
def test_a_whole(text: str, part: str) -> None:
    at = text.index(part)
    assert [*WholeWordFinder([part]).find(text)] == [(at, part)]
    assert [*WholeWordFinder([part]).find(f"it is {text} I think")] == [(at + 6, part)]
    match = re.search(build_whole_word_pattern(part), text)
    assert match is not None and match.start() == at


def test_the_longest_part_at_a_place() -> None:
    found = WholeWordFinder(["card", "lost card", "C", "C++", ""]).find("lost card, card, C, C++")
    assert [*found] == [(0, "lost card"), (11, "card"), (17, "C"), (20, "C++")]
    assert [*WholeWordFinder([]).find("any")] == []
