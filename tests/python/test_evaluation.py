"""Evaluations of rows of one's own."""

from __future__ import annotations

import pytest

import tunesmith
from tunesmith.errors import ConfigError, UsageError
from tunesmith.records import Completion, Record
from tunesmith.statistics import mean_interval
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_python.evaluation import evaluate

ROWS: list[Record] = [
    Completion(source=f"r:{n}", prompt=f"p{n}", completion="yes") for n in range(5)
]


def test_the_mean_and_interval_of_known_answers() -> None:
    model = FakeTextModel(answers={"p0": "yes", "p1": "yes", "p2": "no", "p3": "yes"})
    assert tunesmith.evaluate is evaluate
    found = tunesmith.evaluate(model, ROWS)
    assert found == {"exact-match": mean_interval([1, 1, 0, 1, 0])}


def test_rows_of_a_group_count_as_one_unit() -> None:
    model = FakeTextModel(answers={"p0": "yes", "p1": "yes"})
    alike = [
        Completion(source=row.source, prompt=f"p{n}", completion="yes", group=f"{n // 2}")
        for n, row in enumerate(ROWS)
    ]
    single, grouped = (tunesmith.evaluate(model, rows)["exact-match"] for rows in (ROWS, alike))
    assert grouped.value == single.value
    assert grouped.high - grouped.low > single.high - single.low


def test_wrong_names_options_and_no_rows_are_refused() -> None:
    model = FakeTextModel()
    with pytest.raises(UsageError, match='no evaluator "exact-mach"') as caught:
        tunesmith.evaluate(model, ROWS, "exact-mach")
    assert caught.value.hint == 'did you mean "exact-match"?'
    with pytest.raises(UsageError, match="is empty"):
        tunesmith.evaluate(model, [])
    with pytest.raises(ConfigError, match=r"evaluator exact-match\.lenght: unknown key"):
        tunesmith.evaluate(model, ROWS, options={"lenght": 3})
