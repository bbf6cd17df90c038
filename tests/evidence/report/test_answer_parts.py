"""Fields of JSON answers and confused labels, counted apart from the score of the whole answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tunesmith_evidence.report.answer_parts import (
    OTHER,
    FieldScore,
    count_confusions,
    describe_fields,
    find_weakest_field,
    list_error_kinds,
    score_fields,
)
from tunesmith_evidence.report.answers import Answer, AnswerRow, Answers

Texts = Sequence[tuple[str, str | None]]
"""The expected answer and the tuned model's; None if it was not asked."""


def build(texts: Texts) -> Answers:
    rows = [
        AnswerRow(
            f"f:{n}",
            (("user", "q"),),
            expected,
            () if text is None else (Answer("tuned", text, value, value == 1.0),),
            is_wrong=value != 1.0,
            is_regressed=False,
        )
        for n, (expected, text) in enumerate(texts)
        for value in [float(text == expected)]
    ]
    return Answers("m", ["tuned"], rows, [])


def test_each_field_is_scored_by_its_value_however_it_is_written() -> None:
    expected = json.dumps({"team": "heat", "order": {"id": 7}})
    texts = [
        (expected, expected),
        (expected, '```json\n{"order": {"id": 7.0}, "team": "heat"}\n```'),
        (expected, '{"team": "water", "order": {"id": 7}}'),
        (expected, '{"team": "heat"}'),
        (expected, "heat, 7"),
        (expected, f"<think>\nheat\n</think>\n\n{expected}"),
        (expected, None),
    ]
    scores = {
        score.name: (score.rows, score.right["tuned"]) for score in score_fields(build(texts))
    }
    assert scores == {"team": (7, (4, 6)), "order.id": (7, (4, 6))}


def test_other_answers_have_no_fields_and_no_labels() -> None:
    answers = build([(f"a text of its kind {n}", "x") for n in range(9)])
    assert score_fields(answers) == [] and count_confusions(answers, "tuned") is None
    labels = build([(label, "yes") for label in ("yes", "no") * 5])
    assert score_fields(labels) == [] and count_confusions(labels, "base") is None


def test_confused_labels_are_counted_by_pair() -> None:
    texts: Texts = [
        *[("heat", "heat")] * 4,
        *[("water", "The label is heat.")] * 3,
        ("water", "water"),
        ("heat", "no idea"),
        ("heat", "Heat."),
        ("heat", None),
    ]
    found = count_confusions(build(texts), "tuned")
    assert found is not None
    assert found.columns == ["heat", "water", OTHER]
    assert found.worst == [("water", "heat", 3), ("heat", OTHER, 2)]
    assert found.counts["heat", "heat"] == 4


def test_labels_that_differ_only_in_white_space_are_one() -> None:
    texts: Texts = [("card lost", "card lost"), ("card  lost", "card"), ("card", "card")] * 4
    found = count_confusions(build(texts), "tuned")
    assert found is not None and found.labels == ["card lost", "card"]
    assert found.worst == [("card lost", "card", 4)]


def test_the_evaluators_own_counts_are_shown() -> None:
    texts: Texts = [("card", "card lost"), ("card", "card"), ("refund", "no idea")] * 4
    confusion = {"card": {"card lost": 4, "card": 4}, "refund": {"": 4}}
    found = count_confusions(replace(build(texts), confusion=confusion), "tuned")
    assert found is not None and found.columns == ["card", "refund", "card lost", OTHER]
    assert found.counts["card", "card lost"] == 4
    assert found.worst == [("card", "card lost", 4), ("refund", OTHER, 4)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abc")), min_size=6, max_size=30))
def test_every_answer_is_in_the_table_once(pairs: list[tuple[str, str]]) -> None:
    texts: Texts = [("a", "a"), ("a", "b"), ("b", "b"), ("b", "b"), *pairs]
    found = count_confusions(build(texts), "tuned")
    assert found is not None
    assert sum(found.counts.values()) == len(texts)
    right = sum(count for (expected, given), count in found.counts.items() if expected == given)
    assert right == sum(expected == text for expected, text in texts)


def test_many_labels_are_listed_as_pairs() -> None:
    labels = [f"queue {letter}" for letter in "abcdefghijklmnopqrstuvwxyzäöüéßñç"]
    found = count_confusions(build([(label, labels[0]) for label in labels] * 3), "tuned")
    assert found is not None and not found.is_matrix
    assert len(found.worst) == len(labels) - 1 and {count for *_, count in found.worst} == {3}


def test_fields_are_described_from_the_weakest_on() -> None:
    scores = [
        FieldScore("team", 9, {"tuned": (9, 9), "rules": (3, 9), "zero-shot": (1, 3)}),
        FieldScore("slot", 9, {"tuned": (5, 9), "rules": (4, 9), "zero-shot": (0, 3)}),
    ]
    text = "slot 5 of 9 (rules: 4); team 9 of 9 (rules: 3)"
    assert describe_fields(scores, "tuned", "rules", 4) == text
    text = "slot 5 of 9 (zero-shot: 0 of 3); and 1 more field"
    assert describe_fields(scores, "tuned", "zero-shot", 1) == text
    assert describe_fields([], "tuned", "rules", 4) == ""
    assert find_weakest_field(scores, "tuned") is scores[1]
    assert find_weakest_field(scores[:1], "tuned") is None


def kinds(texts: Texts) -> dict[str, list[str]]:
    found = list_error_kinds(build(texts))
    return {name: [row.source for row in rows] for name, rows in found.items()}


def test_wrong_json_answers_are_sorted_by_their_wrong_fields() -> None:
    expected = json.dumps({"team": "heat", "order": {"id": 7}})
    texts = [
        (expected, '{"team": "water", "order": {"id": 8}}'),
        (expected, expected),
        (expected, '{"team": "heat", "order": {"id": 8}}'),
        (expected, "heat, 7"),
        (expected, '{"order": {"id": 9}, "team": "heat"}'),
        (expected, '{"team": "heat", "note": 1}'),
        (expected, '{"team": "heat",  "order": {"id": 7.0}}'),
        (expected, " "),
    ]
    found = kinds(texts)
    assert found == {
        "wrong order.id": ["f:2", "f:4"],
        "wrong team, order.id": ["f:0"],
        "not a JSON object": ["f:3"],
        "missing order.id; unexpected note": ["f:5"],
        "differs only in its form": ["f:6"],
        "empty answer": ["f:7"],
    }
    assert next(iter(found)) == "wrong order.id", "the most frequent kind comes first"


def test_wrong_labels_are_sorted_by_pairs_and_texts_by_near_misses() -> None:
    labels = [("heat", "water"), ("heat", "no idea"), ("water", "water"), ("heat", "heat")] * 4
    assert {name: len(rows) for name, rows in kinds(labels).items()} == {
        "heat answered as water": 4,
        "none of the labels": 4,
    }
    texts = [(f"the meeting number {n} is on Monday", f"Monday {n}") for n in range(8)]
    texts.append(("the lost card is blocked", "The lost card is blocked!"))
    assert {name: len(rows) for name, rows in kinds(texts).items()} == {
        "another answer": 8,
        "differs only in case, punctuation or a lead-in phrase": 1,
    }


def test_labels_that_look_the_same_are_one_in_the_kinds_of_errors() -> None:
    labels = [
        ("caf\u00e9", "bar"),
        ("cafe\u0301", "bar"),
        ("late  fee", "bar"),
        ("late fee", "bar"),
        ("bar", "bar"),
    ] * 3
    assert {name: len(rows) for name, rows in kinds(labels).items()} == {
        "caf\u00e9 answered as bar": 6,
        "late fee answered as bar": 6,
    }


def test_answers_without_text_or_best_value_have_no_kinds() -> None:
    answers = build([("a", "b")])
    assert list_error_kinds(replace(answers, has_texts=False)) == {}
    assert list_error_kinds(replace(answers, has_best=False)) == {}


def test_long_answers_are_not_compared_by_character() -> None:
    """Such a comparison takes seconds."""
    assert [*kinds([("long answer " * 30, "long answer " * 30 + "x")])] == ["another answer"]
