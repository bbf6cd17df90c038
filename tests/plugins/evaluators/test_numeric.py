"""The number of an answer is compared with that of the reference."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith.testing.examples import COMPLETIONS, NUMBERS
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.numeric import NUMERIC, NumericOptions


def is_right(answer: str, reference: str, **options: Any) -> bool:
    record = Completion(source="a:1", prompt="q", completion=reference)
    built = NUMERIC.build(NumericOptions(max_new_tokens=50, **options))
    (found,) = built.measure(FakeTextModel(answers={"q": answer}), [record])
    return found.values == (1.0,)


@pytest.mark.parametrize(
    ("answer", "reference", "options", "right"),
    [
        ("So she has 1234 apples.", "It is 1,234\n#### 1,234", {}, True),
        ("#### 1,234.0", "#### 1234", {}, True),
        ("#### 1,235", "#### 1234", {}, False),
        ("", "#### 1234", {}, False),
        ("1,5", "1.5", {}, False),
        ("1,5", "1,50", {"decimal_separator": ","}, True),
        ("3.14", "3.14159", {"tolerance": 0.01}, True),
        ("3.14", "3.16", {"tolerance": 0.01}, False),
        ("0.3", "0.2", {"tolerance": 0.1}, True),
        ("101", "100", {"relative_tolerance": 0.01}, True),
        ("-101", "-102.1", {"relative_tolerance": 0.01}, False),
    ],
)
def test_answers_by_hand(answer: str, reference: str, options: dict[str, Any], right: bool) -> None:
    assert is_right(answer, reference, **options) is right


def test_a_reference_without_a_number_is_an_error() -> None:
    with pytest.raises(DataError, match="a:1: the reference answer contains no number"):
        is_right("1", "many")


def test_a_decimal_comma_is_not_read_as_a_point() -> None:
    with pytest.raises(
        DataError, match='a:1: the reference is no number with decimal_separator = "'
    ):
        is_right("2,5 kg", "3,5 kg")
    assert not is_right("2,5 kg", "3,5 kg", decimal_separator=",")
    assert not is_right("2,5", "5") and is_right("2,5", "2,50", decimal_separator=",")


def test_is_default_for_answers_with_the_mark_of_gsm8k() -> None:
    assert NUMERIC.default_for(NUMBERS)
    assert not NUMERIC.default_for(COMPLETIONS)
    assert not NUMERIC.default_for([*NUMBERS, *COMPLETIONS[:1]])
    assert not NUMERIC.default_for([])
