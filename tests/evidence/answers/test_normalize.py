"""Normalized answers, and labels that are read from answers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_evidence.answers.normalize import (
    LENIENT_NORMALIZER,
    LabelReader,
    TextNormalizer,
    normalize_unicode,
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
        ("- yes", "yes"),
        ("## Yes", "yes"),
        ("***Yes***", "yes"),
        ("`yes`.", "yes"),
        ("“yes”", "yes"),
        ('"yes" or "no"', '"yes" or "no"'),
        ("**Answer:** **yes**.", "yes"),
        ("**The answer is: yes.**", "yes"),
        ("¿Sí?", "sí"),
        ("是。", "是"),
    ],
)
def test_lenient_comparison(answer: str, normalized: str) -> None:
    assert LENIENT_NORMALIZER.normalize(answer) == normalized


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
        ("It isn’t a refund", None),
        ("This is not the lost card", None),
        ("Das ist nicht refund", None),
        ("kein refund", None),
        ("pas un refund", None),
        ("It is a refund", "refund"),
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


@pytest.mark.parametrize(
    "text",
    ["-1", "+1", "C++", "C#", ".NET", "A-", "A*", "<5", ">5", "≥5", "5%", "5°", "$5", "=", "!x",
     "- 1", "#1", "@me", "~x", "x^", "5/", "_x", "x_", "**x", 'x"', "→", "A+/B-"],
)  # fmt: skip
def test_signs_and_symbols_are_a_part_of_the_answer(text: str) -> None:
    assert LENIENT_NORMALIZER.normalize(text) == text.casefold()
    assert LENIENT_NORMALIZER.normalize(f"The answer is {text}") == text.casefold()
    assert LENIENT_NORMALIZER.normalize(f"**Answer:** {text}") == text.casefold()


@pytest.mark.parametrize("mark", [".", "。", "？", "؟", "،", "؛", "۔", "।"])
def test_punctuation_of_every_script_is_ignored(mark: str) -> None:
    assert LENIENT_NORMALIZER.normalize(f"استرجاع{mark}") == "استرجاع"
    assert TextNormalizer().normalize(f"استرجاع{mark}") == f"استرجاع{mark}"


@pytest.mark.parametrize("text", ["." * 9_000, ". " * 9_000, "a" + " !" * 9_000, "*a " * 9_000])
def test_long_answers_are_normalized_quickly(text: str) -> None:
    normalized = LENIENT_NORMALIZER.normalize(text)
    assert normalized
    assert LENIENT_NORMALIZER.normalize(normalized) == normalized


def test_a_label_that_occurs_twice_is_refused() -> None:
    for labels in (["yes", "yes"], ["lost card", "lost  card"], ["é", "e\u0301"]):
        with pytest.raises(ValueError, match="occurs twice"):
            LabelReader(labels)


HARD_LABELS = [
    ["-1", "0", "1"], ["C", "C++", "C#"], ["A-", "A", "A+"], ["<5", ">5", "5"], ["Aa", "aa", "AA"],
    ["yes", "Yes", "Yes.", "yes!"], [":)", ":(", ":"], ["+", "-"], ["1.5", "15", "1", "5"],
    ["`x`", "x", '"x"', "**x**"], ["label: a", "a"], ["not a", "a"], ["(1)", "1"], ["- a", "a"],
    ["²", "2"], ["", "."],
]  # fmt: skip


@pytest.mark.parametrize("labels", HARD_LABELS)
def test_labels_that_look_alike_are_told_apart(labels: list[str]) -> None:
    assert [LabelReader(labels).read(label) for label in labels] == labels


MARKS = st.text(st.sampled_from("aAbB1 .,-+#*<>()_`\"'!?:/=%"), min_size=1, max_size=4)
WRITTEN = st.one_of(MARKS, st.text(max_size=6)).map(normalize_unicode)


@given(st.lists(WRITTEN, min_size=1, max_size=8, unique=True))
def test_no_two_labels_are_ever_one(labels: list[str]) -> None:
    """Whatever the labels are, each is read as itself: so no two are counted as equal."""
    for normalizer in (
        LENIENT_NORMALIZER,
        TextNormalizer(),
        TextNormalizer(ignore_punctuation=True),
    ):
        reader = LabelReader(labels, normalizer)
        assert [reader.read(label) for label in labels] == labels


@given(st.lists(WRITTEN, min_size=2, max_size=8, unique=True), WRITTEN)
def test_other_labels_make_no_other_label_of_an_answer(labels: list[str], answer: str) -> None:
    """Other labels can make an answer ambiguous, or be the answer itself; nothing else."""
    reader = LabelReader(labels[:1])
    alone, among = reader.match(answer), LabelReader(labels).match(answer)
    assert among != labels[0] or alone == labels[0]
    assert answer not in labels or among == answer


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("-1", "-1"),
        ("The answer is -1.", "-1"),
        ("**-1**", "-1"),
        ("I would rate it -1, as it broke.", "-1"),
        ("I would rate it 1.", "1"),
        ("Score: 1", "1"),
        ("Score:1", "1"),
        ("(1)", "1"),
        ("\N{MINUS SIGN}1", None),
        ("--1", None),
        ("- 1", None),
        ("+1", None),
        ("1.5", None),
        ("10", None),
        ("1-0", None),
        ("1%", None),
        ("between -1 and 1", None),
    ],
)
def test_numbers_as_labels(answer: str, label: str | None) -> None:
    assert LabelReader(["-1", "0", "1"]).read(answer) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("C++.", "C++"),
        ("`C++`", "C++"),
        ("It is written in C++, I think.", "C++"),
        ("It is written in C.", "C"),
        ("c", "C"),
        ("C#", None),
        ("It is written in C#.", None),
        ("Objective-C", None),
    ],
)
def test_languages_as_labels(answer: str, label: str | None) -> None:
    assert LabelReader(["C", "C++", "Java"]).read(answer) == label


def test_labels_that_end_with_punctuation() -> None:
    reader = LabelReader(["Yes.", "No.", "Who?"])
    answers = ("yes", "No", "no.", "who", "I say yes", "Yes?")
    assert [*map(reader.read, answers)] == ["Yes.", "No.", "No.", "Who?", "Yes.", "Yes."]


def test_labels_that_differ_in_case_alone() -> None:
    reader = LabelReader(["Aa", "aa", "B"])
    answers = ("Aa.", "It is aa", "AA", "b", "It is AA")
    assert [*map(reader.read, answers)] == ["Aa", "aa", None, "B", None]
