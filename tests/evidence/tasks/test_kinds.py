"""Kinds of tasks."""

from __future__ import annotations

import json

import pytest

from tunesmith.records import Completion
from tunesmith_evidence.tasks.kinds import (
    TaskKind,
    detect_record_task,
    detect_task_kind,
    has_fixed_answers,
    has_recurring_answers,
    list_labels,
    unify_spellings,
)

OBJECTS = [json.dumps({"id": n, "kind": "ab"[n % 2]}) for n in range(20)]


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("classes", ["yes", "no"] * 10),
        ("classes", [f"intent {n % 77}" for n in range(154)]),
        ("classes", ["yes"] * 20 + ["no "] * 18 + ["maybe"]),
        ("classes", [str(n % 5) for n in range(50)]),
        ("objects", OBJECTS),
        ("objects", [f"```json\n{answer}\n```" for answer in OBJECTS]),
        ("objects", [*OBJECTS, "I cannot say."]),
        ("text", [*OBJECTS, *["I cannot say."] * 5]),
        ("text", [json.dumps({str(n): n}) for n in range(20)]),
        ("text", [f"an answer {n}" for n in range(20)]),
        ("text", ["a"] * 10 + [f"b{n}" for n in range(9)]),
        ("text", [f"{n % 60}" for n in range(240)]),
        ("text", ["x" * 201] * 10),
        ("text", []),
    ],
)
def test_kind(kind: TaskKind, answers: list[str]) -> None:
    assert detect_task_kind(answers) == kind
    rows = [
        Completion(source=str(n), prompt=str(n), completion=answer)
        for n, answer in enumerate(answers)
    ]
    assert detect_record_task(rows) == kind
    assert has_fixed_answers(rows) == (kind != "text")


@pytest.mark.parametrize(
    ("recurs", "answers"),
    [
        (True, ["yes", "no"] * 10),
        (True, OBJECTS),
        (True, [f"intent {n % 70}" for n in range(106)]),  # of 70 classes, 36 have two rows
        (False, [f"intent {n % 90}" for n in range(106)]),
        (False, [f"{n % 10} " + "x" * 200 for n in range(20)]),
        (False, []),
    ],
)
def test_answers_recur(recurs: bool, answers: list[str]) -> None:
    rows = [Completion(source=str(n), prompt="p", completion=a) for n, a in enumerate(answers)]
    assert has_recurring_answers(rows) is recurs


def test_labels_are_listed_by_frequency_then_by_name() -> None:
    assert list_labels(["b", "c", "a ", "c"]) == ["c", "a", "b"]


def test_labels_that_look_the_same_are_one_label_in_its_usual_spelling() -> None:
    answers = ["cafe\u0301", "late  fee", "caf\u00e9", "bar", "late fee", "caf\u00e9", "late fee "]
    assert list_labels(answers) == ["caf\u00e9", "late fee", "bar"]
    assert unify_spellings(answers[:3]) == ["caf\u00e9", "late  fee", "caf\u00e9"]
    assert detect_task_kind(["caf\u00e9", "cafe\u0301", "late fee", "late  fee"]) == "classes"
