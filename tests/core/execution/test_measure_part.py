"""A part of the test rows is measured by the rules of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import Measurement, RunContext, TextModel
from tunesmith.execution.measure_part import EmptyAnswerModel, measure_part, prepare
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.prepared import PreparedEvaluator, RowWise
from tunesmith.records import Chat, Completion, Message, Record
from tunesmith.testing import FakeTextModel

ROWS = [Completion(source=f"f:{n}", prompt=f"q{n}", completion="a " * n) for n in range(6)]
WORDY = FakeTextModel(answers={f"q{n}": "a b c d e f g h" for n in range(9)}, logprobs={"x": [-1]})


class NoOptions(Options):
    """None."""


@dataclass(frozen=True)
class Words:
    """Counts the words of an answer, at most as many as the longest reference has."""

    limit: int | None = None

    def measure(self, model: TextModel, records: Sequence[Record]) -> list[Measurement]:
        limit = self.limit or longest(records)
        answers = model.generate([record.prompt for record in records], limit)  # type: ignore[attr-defined]
        values = tuple(float(len(answer.text.split())) for answer in answers)
        outputs = tuple(answer.text for answer in answers)
        weights = tuple(range(1, 1 + len(records)))
        return [
            Measurement(
                metric="words", values=values, outputs=outputs, weights=weights,
                details={"rows": len(records)}, interval=(0.0, 9.0),
            )
        ]  # fmt: skip


class Prepared(Words):
    def prepare(self, references: Sequence[Record]) -> Words:
        return Words(longest(references))


def longest(records: Sequence[Record]) -> int:
    return max(len(record.completion.split()) for record in records)  # type: ignore[attr-defined]


def offer(**metric: Any) -> EvaluatorOffer[NoOptions]:
    return EvaluatorOffer(
        name="words", summary="-", config=NoOptions, build=lambda options: Words(),
        metrics=(Metric(name="words", higher_is_better=True, unit="words", **metric),),
    )  # fmt: skip


def run(test: Sequence[Record] = ROWS, opened: TextModel = WORDY) -> RunContext:
    return RunContext(model=Path(), device="cpu", artifacts={}, open=lambda path: opened, test=test)


def test_an_evaluator_that_is_prepared_measures_the_given_rows_alone() -> None:
    [found] = measure_part(offer(), Prepared(), WORDY, ROWS[:2], run())
    assert found.values == (5.0, 5.0) and found.details == {"rows": 2}
    [found] = measure_part(offer(), Prepared(), WORDY, ROWS[:2], run(test=()))
    assert found.values == (1.0, 1.0), "without a run, the rows are all there are"
    assert isinstance(Prepared(), PreparedEvaluator) and not isinstance(Words(), PreparedEvaluator)


def test_one_that_is_not_sees_all_test_rows_and_the_model_does_not() -> None:
    model = replace(WORDY, calls=[])
    other = Completion(source="validation:1", prompt="q7", completion="a")
    [found] = measure_part(offer(), Words(), model, [ROWS[1], other], run())
    assert found.values == (5.0, 5.0) and found.weights == (1, 2)
    assert found.outputs == ("a b c d e",) * 2
    assert found.details == {} and found.interval is None, "they are of rows that do not count"
    assert model.calls == [("generate", 5)]
    [all_rows] = measure_part(offer(), Words(), WORDY, ROWS, run())
    assert all_rows.details == {"rows": 6} and all_rows.interval == (0.0, 9.0)


def test_a_metric_of_all_rows_is_that_of_the_given_rows() -> None:
    [found] = measure_part(offer(is_row_mean=False), Words(), WORDY, ROWS[:2], run())
    assert found.details == {"rows": 2}


def test_the_other_model_is_not_asked_about_the_other_rows_either() -> None:
    opened = replace(WORDY, calls=[])

    class Comparing(Words):
        def compare(self, model: Any, records: Any, run: RunContext) -> list[Measurement]:
            base = run.open(None)
            scored = base.score([record.prompt for record in records], ["x"] * len(records))
            assert [len(score.logprobs) for score in scored] == [1] * len(records)
            return self.measure(model, records)

    [found] = measure_part(offer(), Comparing(), WORDY, ROWS[:2], run(opened=opened))
    assert found.values == (5.0, 5.0)
    assert opened.calls == [("score", 2)]


def test_rows_of_its_own_are_left_as_they_are() -> None:
    class Own(Words):
        def measure(self, model: TextModel, records: Sequence[Record]) -> list[Measurement]:
            return [Measurement(metric="words", values=(1.0,), records=ROWS[:1])]

    assert measure_part(offer(), Own(), WORDY, ROWS[:2], run())[0].values == (1.0,)


def test_a_silent_model_keeps_the_order_and_passes_errors_on() -> None:
    turns = (Message("user", "q1"),)
    model = EmptyAnswerModel(WORDY, frozenset({"q0", turns}))
    texts = [answer.text for answer in model.generate(["q0", "q1", turns], 2)]
    assert texts == ["", "a b", ""]
    assert [s.logprobs for s in model.score(["q0", "q1"], ["x", "x"])] == [(0.0,), (-1,)]
    assert model.sample(["q0"], 2, seed=1)[0].text == ""
    chat = Chat(source="c:1", messages=(*turns, Message("assistant", "b")))
    with pytest.raises(AttributeError):  # Words knows completions only
        measure_part(offer(), Words(), WORDY, ROWS[:1], run(test=[chat]))


def test_a_row_wise_evaluator_is_prepared_as_it_is() -> None:
    class Each(RowWise, Words):
        pass

    evaluator = Each(3)
    assert prepare(evaluator, ROWS) is evaluator and prepare(Words(2), ROWS) == Words(2)
