"""Normalized answers, and labels that are read from answers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_evidence.answers.normalize import (
    LENIENT,
    LabelReader,
    TextNormalizer,
    strip_reasoning,
)


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("Yes.", "yes"),
        ("**Yes!**", "yes"),
        ('"yes"', "yes"),
        ("The answer is: yes", "yes"),
        ("The correct answer would be Yes.", "yes"),
        ("Category: Lost Card", "lost card"),
        ("Label = lost_card", "lost_card"),
        ("So, the best label for this ticket is `lost card`.", "lost card"),
        ("<think>no, it is\nyes</think>\n\nYes", "yes"),
        ("It was an answer", "it was an answer"),
        ("labels", "labels"),
        ("+", "+"),
        ("", ""),
        ("The answer is", "the answer is"),
        ("Straße", "strasse"),
    ],
)
def test_lenient_comparison(answer: str, normalized: str) -> None:
    assert LENIENT.normalize(answer) == normalized


@pytest.mark.parametrize("answer", ["Yes.", "The answer is yes", "YES", " yes "])
def test_each_leniency_is_an_option(answer: str) -> None:
    assert (TextNormalizer().normalize(answer) == "yes") is (answer == " yes ")
    assert TextNormalizer(ignore_case=True).normalize("YES") == "yes"
    assert TextNormalizer(ignore_punctuation=True).normalize("(yes)") == "yes"
    assert TextNormalizer(ignore_lead_in=True).normalize("Answer: yes") == "yes"


def test_extract_comes_first() -> None:
    normalizer = TextNormalizer(extract=re.compile(r"#### (.*)"), ignore_punctuation=True)
    assert normalizer.normalize("so #### yes.") == "yes"
    assert normalizer.normalize("yes") is None


@given(st.text(max_size=40))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    normalizer = TextNormalizer(ignore_case=True, ignore_punctuation=True)
    once = normalizer.normalize(text)
    assert once is not None
    assert normalizer.normalize(once) == once


def test_reasoning_is_stripped_at_the_start_only() -> None:
    assert strip_reasoning("<think>a</think>b <think>c</think>") == "b <think>c</think>"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("refund", "refund"),
        ("Refund.", "refund"),
        ("This is about a refund, I believe.", "refund"),
        ("lost card", "lost card"),
        ("The customer has a lost card", "lost card"),
        ("card", "card"),
        ("refund or card", None),
        ("It is not refund", None),
        ("It isn't refund", None),
        ("refunds", None),
        ("", None),
        ("something else", None),
        ("refund refund", "refund"),
    ],
)
def test_the_only_label_that_an_answer_names(answer: str, label: str | None) -> None:
    assert LabelReader(["refund", "card", "lost card"]).read(answer) == label


def test_labels_are_returned_as_they_are_written() -> None:
    assert LabelReader(["Lost-Card", "C++"]).read("it is lost-card!") == "Lost-Card"
    assert LabelReader(["Lost-Card", "C++"]).read("C++") == "C++"


def test_labels_that_are_alike_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'yes' and 'Yes\.' are alike"):
        LabelReader(["yes", "Yes."])
