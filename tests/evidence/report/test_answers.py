"""Test rows with the answers of several models, those that got worse first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import IntegrityError
from tunesmith.events import Measured
from tunesmith.execution.report import Report, build_report
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_event, sample_run
from tunesmith_evidence.report.answers import read_answers
from tunesmith_evidence.report.view import ReportView
from tunesmith_evidence.statistics import row_contributions
from tunesmith_plugins.evaluators.text_overlap.evaluator import (
    compute_chrf,
    compute_rouge_l,
    count_chrf,
)


def build(
    folder: Path, values: Mapping[str, Mapping[int, float]], baseline: str = "linear", **fields: Any
) -> Report:
    """Write the values of several models by row, and return the report of their run."""
    events = []
    for model, rows in values.items():
        lines = [
            {
                "row": n,
                "source": f"x:{n}",
                "prompt": [["system", "s"], ["user", f"ask {n}"]],
                "expected": "yes",
                "m": {"value": value, "weight": 1},
                "output": f"{model} {n}",
            }
            for n, value in rows.items()
        ]
        (folder / f"{model}.jsonl").write_text("".join(encode_json(x) + "\n" for x in lines))
        records = f"{model}.jsonl"
        events.append(
            sample_event(
                Measured, model=model, evaluator="e", metric="m", records=records, **fields
            )
        )
    *others, end = [e for e in sample_run() if not isinstance(e, Measured)]
    verdict = {"metric": "m", "evaluator": "e", "baseline": baseline}
    return build_report([*others, *events, replace(end, verdict=verdict)])  # type: ignore[type-var]


def test_rows_are_joined_by_number_and_ordered(tmp_path: Path) -> None:
    values = {
        "zero-shot": {2: 1.0},
        "majority": {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0},
        "linear": {0: 1.0, 1: 0.0, 2: 0.0, 3: 1.0},
        "tuned": {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0},
    }
    found = read_answers(tmp_path, build(tmp_path, values))
    assert found is not None
    assert [row.source for row in found.rows] == ["x:2", "x:3", "x:1", "x:0"]
    assert [row.source for row in found.regressed] == ["x:2", "x:3"]
    assert [row.source for row in found.wrong] == ["x:2", "x:3", "x:1"]
    assert found.models == ["zero-shot", "linear", "tuned"]
    first = found.rows[0]
    assert [answer.model for answer in first.answers] == ["zero-shot", "linear", "tuned"]
    answer = first.find_answer("tuned")
    assert answer is not None and (first.question, answer.text) == ("ask 2", "tuned 2")
    assert [answer.is_right for answer in first.answers] == [True, False, False]
    assert found.rows[1].find_answer("zero-shot") is None and not found.was_sliced


def test_without_texts_the_values_are_shown(tmp_path: Path) -> None:
    report = build(tmp_path, {"linear": {0: 1.0}, "tuned": {0: 0.0}})
    for path in tmp_path.glob("*.jsonl"):
        lines = [{**json.loads(line), "output": ""} for line in path.read_text().splitlines()]
        path.write_text("".join(encode_json(line) + "\n" for line in lines))
    found = read_answers(tmp_path, report)
    assert found is not None
    assert [answer.text for answer in found.rows[0].answers] == ["m 1.000", "m 0.000"]
    assert [answer.is_right for answer in found.rows[0].answers] == [True, False]


def test_a_loss_is_neither_right_nor_wrong_but_can_be_worse(tmp_path: Path) -> None:
    values = {"linear": {0: 1.0, 1: 3.0}, "tuned": {0: 2.0, 1: 1.0}}
    report = build(tmp_path, values, higher_is_better=False, unit="nats")
    found = read_answers(tmp_path, report)
    assert found is not None
    assert [row.is_regressed for row in found.rows] == [True, False]
    assert all(answer.is_right is None for row in found.rows for answer in row.answers)
    assert found.summary == "the worst 1 of 2 rows; another model did better on 1"


def test_of_a_quantity_the_worse_half_is_shown_and_not_called_wrong(tmp_path: Path) -> None:
    report = build(tmp_path, {"tuned": {n: float(n) for n in range(8)}}, unit="nats")
    found = read_answers(tmp_path, report)
    assert found is not None
    assert [row.source for row in found.wrong] == ["x:0", "x:1", "x:2", "x:3"]
    assert found.summary == "the worst 4 of 8 rows"


def test_without_a_tuned_model_there_are_no_answers(tmp_path: Path) -> None:
    assert read_answers(tmp_path, build(tmp_path, {"linear": {0: 1.0}})) is None


def test_a_lost_file_is_an_error(tmp_path: Path) -> None:
    report = build(tmp_path, {"linear": {0: 1.0}, "tuned": {0: 1.0}})
    (tmp_path / "linear.jsonl").unlink()
    with pytest.raises(IntegrityError, match=r"linear\.jsonl"):
        read_answers(tmp_path, report)


def test_weak_slices_are_found_among_enough_rows(tmp_path: Path) -> None:
    values = {"tuned": {n: float(n % 3 > 0) for n in range(60)}}
    found = read_answers(tmp_path, build(tmp_path, values))
    assert found is not None and found.was_sliced


def build_joint(folder: Path, answers: Mapping[str, str]) -> Report:
    """Write answers by chrF and BLEU, of all rows together, and by a metric of each row."""
    references = ["the cat sat on the mat", "dogs bark at night", "a short one", "hello world"]
    events = []
    for model, wrong in answers.items():
        outputs = [wrong if n == len(model) % 4 else text for n, text in enumerate(references)]
        pairs = [*zip(outputs, references, strict=True)]
        counts = [count_chrf(*pair) for pair in pairs]
        lines = [
            {
                "row": n,
                "source": f"x:{n}",
                "expected": reference,
                "output": output,
                "m": {"value": value, "weight": 1, "counts": {}},
                "bleu": {"value": value, "weight": 1, "counts": {}},
                "rows": {"value": compute_rouge_l(output, reference), "weight": 1},
            }
            for n, ((output, reference), value) in enumerate(
                zip(pairs, row_contributions(counts, compute_chrf), strict=True)
            )
        ]
        (folder / f"{model}.jsonl").write_text("".join(encode_json(x) + "\n" for x in lines))
        events += [
            sample_event(
                Measured, model=model, evaluator="e", metric=metric, records=f"{model}.jsonl"
            )
            for metric in ("m", "bleu", "rows")
        ]
    *others, end = [e for e in sample_run() if not isinstance(e, Measured)]
    verdict = {"metric": "m", "evaluator": "e", "baseline": "linear"}
    return build_report([*others, *events, replace(end, verdict=verdict)])  # type: ignore[type-var]


def test_rows_are_judged_by_themselves_where_a_metric_is_of_all_rows(tmp_path: Path) -> None:
    found = read_answers(tmp_path, build_joint(tmp_path, {"linear": "no", "tuned": "dogs"}))
    assert found is not None and found.label.endswith("rows")
    assert [row.source for row in found.wrong] == ["x:1"] == [r.source for r in found.regressed]
    for row in found.rows:
        for answer in row.answers:
            assert answer.is_right is (answer.text == row.expected)


def test_a_metric_of_all_rows_alone_judges_no_row(tmp_path: Path) -> None:
    report = build_joint(tmp_path, {"tuned": "dogs"})
    del report.measured["tuned", "e", "rows"]
    assert read_answers(tmp_path, report) is None


@pytest.mark.parametrize(
    ("tuned", "value", "expected"),
    [
        ({0: 1.0, 1: 1.0, 2: 0.0}, 1.0, "2 of 2 right; 1 without fine-tuning (linear)"),
        ({0: 1.0, 1: 0.5}, 0.75, ""),  # partly right
        ({0: 1.0, 1: 1.0}, 0.9, ""),  # the verdict's value is not the share of right rows
    ],
)
def test_right_answers_in_words(
    tmp_path: Path, tuned: Mapping[int, float], value: float, expected: str
) -> None:
    report = build(tmp_path, {"linear": {0: 1.0, 1: 0.0}, "tuned": tuned})
    report.verdict.update(tuned=value, value=0.5)
    assert ReportView(report, tmp_path).right_answers == expected


def test_partly_right_answers_are_not_called_wrong(tmp_path: Path) -> None:
    values = {"tuned": {0: 1.0, 1: 0.5, 2: 0.0, 3: 0.25}}
    found = read_answers(tmp_path, build(tmp_path, values))
    assert found is not None and found.summary == "1 of 4 rows wrong, 2 partly right"
    assert [row.source for row in found.rows if row.is_partly_right] == ["x:1", "x:3"]
