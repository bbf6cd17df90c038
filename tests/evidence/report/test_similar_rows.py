"""Failures that are nearly identical are listed once."""

from __future__ import annotations

from tunesmith_evidence.report.answers import Answer, AnswerRow
from tunesmith_evidence.report.similar_rows import MAX_COMPARED, join_similar_rows


def build(
    prompt: str, given: str = "no", value: float = 0.0, group: str | None = None
) -> AnswerRow:
    answer = Answer("tuned", given, value, value == 1)
    return AnswerRow("f:1", (("user", prompt),), "yes", (answer,), value < 1, False, group)


def count(*rows: AnswerRow) -> list[int]:
    return [1 + len(found.others) for found in join_similar_rows(rows)]


def test_prompts_that_differ_in_numbers_and_case_are_similar() -> None:
    rows = [build("Is the heating on in flat 4?"), build("is the heating on in flat 12")]
    assert count(*rows, build("Who repairs the lift today?")) == [2, 1]
    assert join_similar_rows(rows)[0].note == "and 1 similar row"


def test_rows_of_a_group_are_similar_whatever_their_prompts() -> None:
    rows = [build("Where is it?", group="a"), build("Привет", group="a"), build("Γεια", group="b")]
    assert count(*rows) == [2, 1]


def test_other_answers_and_right_rows_are_not_joined() -> None:
    prompt = "Is the heating on?"
    assert count(build(prompt), build(prompt, "never")) == [1, 1]
    assert count(build(prompt, "yes", 1.0), build(prompt, "yes", 1.0)) == [1, 1]


def test_prompts_without_words_are_not_joined() -> None:
    assert count(build("1 + 1"), build("2 + 5"), build("")) == [1, 1, 1]


def test_many_different_failures_are_compared_with_some() -> None:
    rows = [build(" ".join(chr(0x4E00 + 5 * n + k) * 3 for k in range(5))) for n in range(300)]
    assert count(*rows) == [1] * 300 and MAX_COMPARED < 300
