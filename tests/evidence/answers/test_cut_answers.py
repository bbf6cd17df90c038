"""Answers that were cut are counted, and those that the limit may have spoiled are reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tunesmith.events import Measured
from tunesmith_evidence.answers.cut_answers import (
    CutAnswers,
    count_cut_answers,
    describe_cut_answers,
    list_cut_answers,
)

EVENT = Measured(
    model="tuned", evaluator="exact-match", metric="m", value=0.0, low=0.0, high=0.1, n=100,
    higher_is_better=True, seconds=0.0, records="tuned.jsonl", cut=60,
)  # fmt: skip


def write(folder: Path, *rows: tuple[str, bool]) -> None:
    lines = [
        {"expected": "a right answer", "output": output, "m": {"value": 0.0, "weight": 1.0}}
        | ({"cut": True} if cut else {})
        for output, cut in rows
    ]
    (folder / "tuned.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_answers_that_are_cut_before_the_reference_ends_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, *[("a right", True)] * 3, *[("on and on and on", True)] * 57,
          *[("no", False)] * 40)  # fmt: skip
    assert count_cut_answers(tmp_path, EVENT) == CutAnswers(rows=100, cut=60, short=3)
    assert describe_cut_answers(tmp_path, EVENT) == (
        "tuned: 3 of 100 answers were cut off before they reached the length of the expected "
        "answer: raise max_new_tokens of exact-match"
    )
    write(tmp_path, *[("a right", True)] * 2, *[("on and on and on", True)] * 98)
    assert describe_cut_answers(tmp_path, EVENT) == "", "a model that rambles is cut, too"


def test_without_a_cut_answer_no_file_is_read(tmp_path: Path) -> None:
    whole = replace(EVENT, cut=0)
    assert count_cut_answers(tmp_path, whole) == CutAnswers(100, 0, 0)
    assert describe_cut_answers(tmp_path, whole) == "" == list_cut_answers([whole])
    assert list_cut_answers([EVENT, whole]) == "cut off by max_new_tokens: tuned 60 of 100"
