"""Faults of labels are found, and balanced, long-tailed and free answers are left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clean_rows import clean_rows, label_rows, row, show

from tunesmith.contracts import Finding
from tunesmith.records import Completion
from tunesmith_plugins.checks.rows.labels import MAX_LABELS, Labels, label_key
from tunesmith_plugins.checks.rows.review import review

LABELS = ("delivery", "returns", "refund status", "opening hours")


def found(train: list[Completion], test: list[Completion] | None = None) -> list[Finding]:
    return review(train, test=test or [], checks=[Labels])


def answered(count: int, answer: str, labels: tuple[str, ...] = LABELS) -> list[Completion]:
    """Return rows with labels, in which every tenth or so has another answer."""
    rows = label_rows(labels)
    step = len(rows) // count
    return [
        replace(row, completion=answer) if n % step == 0 and n // step < count else row
        for n, row in enumerate(rows)
    ]


def test_clean_rows_have_no_finding() -> None:
    assert found(clean_rows()) == []
    assert found(label_rows(LABELS), label_rows(LABELS)[:40]) == []
    assert found([]) == []


def test_white_space_around_a_label_is_another_spelling_if_other_rows_have_none() -> None:
    def pad(rows: list[Completion], step: int) -> list[Completion]:
        return [
            replace(row, completion=f" {row.completion}") if n % step == 0 else row
            for n, row in enumerate(rows)
        ]

    (finding,) = found(pad(label_rows(LABELS), 16))
    assert show(finding).startswith(
        "50 of 800 training rows (6.2 %) use an unusual spelling of a label: rows.jsonl:1 "
    )
    assert "has white space around it, other rows not" in show(finding)
    assert found(pad(label_rows(LABELS), 1)) == []


@pytest.mark.parametrize("variant", ["Delivery", "delivery.", "DELIVERY", '"delivery"'])
def test_fifty_other_spellings_of_a_label_are_found(variant: str) -> None:
    (finding,) = found(answered(50, variant))
    assert finding.level == "warning"
    assert show(finding).startswith(
        "50 of 800 training rows (6.2 %) use an unusual spelling of a label: rows.jsonl:1 "
    )
    assert 'usually "delivery"; spell each label in one way: ' in show(finding)


def test_one_misspelled_label_is_found() -> None:
    (finding,) = found(answered(1, "delivrey"))
    assert (finding.level, finding.where) == ("warning", "data labels")
    assert show(finding) == (
        "1 of 5 labels are rare (less than 5 % of the rows of the median label): "
        'rows.jsonl:1 "delivrey", 1 row, perhaps "delivery"; '
        "correct misspelled labels, add rows, or remove these labels"
    )


def test_a_long_tail_of_labels_is_no_fault() -> None:
    def rows(rare: int) -> list[Completion]:
        names = [f"topic {n}" for n in range(20 - rare) for _ in range(40)]
        names += [f"seldom {n}" for n in range(rare)]
        return [replace(r, completion=name) for r, name in zip(clean_rows(), names, strict=False)]

    assert found(rows(rare=5)) == []
    (finding,) = found(rows(rare=2))
    assert show(finding).startswith("2 of 20 labels are rare ")


def test_a_label_with_nearly_all_rows_is_found() -> None:
    (finding,) = found(answered(750, "other", ("delivery",)))
    assert finding.level == "warning"
    assert show(finding).startswith("750 of 800 training rows (94 %) have the same answer: ")


def test_one_answer_in_all_rows_is_an_error() -> None:
    (finding,) = found(label_rows(["delivery"]))
    assert finding.level == "error"
    assert show(finding).startswith("all 800 training rows have the same answer: rows.jsonl:1 ")
    assert found(label_rows(["delivery"])[:19]) == []


def test_a_label_of_test_rows_only_is_found() -> None:
    test = answered(50, "complaint")[:200]
    (finding,) = found(label_rows(LABELS), test)
    assert show(finding).startswith(
        "13 of 200 validation and test rows (6.5 %) have a label that no training row has: "
        "rows.jsonl"
    )


def test_labels_without_test_rows_are_found() -> None:
    test = [row for row in label_rows(LABELS)[:40] if row.completion in ("delivery", "returns")]
    (finding,) = found(label_rows(LABELS), test)
    assert show(finding).startswith(
        "400 of 800 training rows (50 %) have a label that no test row has (2 of 4 labels): "
    )
    shouted = [replace(row, completion=row.completion.upper()) for row in label_rows(LABELS)[:40]]
    texts = [finding.message for finding in found(label_rows(LABELS), shouted)]
    assert not [text for text in texts if "no test row" in text], "another spelling is a label too"
    assert found(label_rows(LABELS)) == [], "there are no test rows"


def test_more_answers_than_labels_are_not_kept() -> None:
    check = Labels()
    rows = [row(n, "Which number?", str(n)) for n in range(MAX_LABELS + 5)]
    assert review(rows * 10, checks=[lambda: check]) == []
    assert len(check._labels) == MAX_LABELS + 1


def test_spellings_of_a_label_have_one_key() -> None:
    for one in ("Refund_Status", "refund-status.", "refund  status"):
        assert label_key(one) == "refund status"
    distinct = (
        "-1", "1", "+1", "?", "!", "A", "A+", ".5", "5", "level -1", "level 1", "1-2", "1 2", "12",
        "C", "C++", "C#", "<5", ">5", "a/b", "ab",
    )  # fmt: skip
    assert len({*map(label_key, distinct)}) == len(distinct)
