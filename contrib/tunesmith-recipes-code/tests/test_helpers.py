"""The committed functions pass their own tests and keep to the conventions."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from tunesmith_recipes_code.helpers.generate import COMPUTATIONS, SELECTIONS
from tunesmith_recipes_code.house_style import HouseStyleOptions, find_departures

OPTIONS = HouseStyleOptions(prefixes=["calc_", "find_", "check_"])


def read(part: str) -> list[dict[str, str]]:
    path = resources.files("tunesmith_recipes_code").joinpath(f"helpers/{part}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("part", ["train", "test"])
def test_references_pass_and_wrong_functions_fail(part: str) -> None:
    for row in read(part):
        assert find_departures(row["completion"], OPTIONS) == ()
        exec(row["completion"] + "\n" + row["test"], {})
        wrong = "def calc_sum(values: list[int]) -> str:\n    return 'wrong'\n"
        with pytest.raises(AssertionError):
            exec(wrong + row["test"], {})


def test_no_test_function_is_a_training_function() -> None:
    train, test = ({row["completion"] for row in read(part)} for part in ("train", "test"))
    assert len(test) == 25 and not train & test


def test_the_tests_of_a_function_reject_every_other_function() -> None:
    rows = {row["completion"]: row["test"] for part in ("train", "test") for row in read(part)}
    assert len(rows) == len(set(rows.values())) == len(COMPUTATIONS) * len(SELECTIONS)


@pytest.mark.parametrize(
    ("limit", "wrong"),
    [("> 0", ">= 0"), ("< 0", "<= 0"), ("> 100", ">= 100"), ("value < 10", "value <= 10"),
     ("10 <= v", "10 < v"), ("<= 99", "< 99"), ("% 2 == 1", "% 2 != 0 and value > 0")],
)  # fmt: skip
def test_a_limit_that_is_off_by_one_is_found(limit: str, wrong: str) -> None:
    # The sum and the extremes of positive numbers are the same with zero.
    same = ("calc_sum_positive", "calc_sum_negative", "find_max_positive", "find_min_negative")
    rows = {row["completion"]: row["test"] for part in ("train", "test") for row in read(part)}
    found = [code for code in rows if limit in code and not any(name in code for name in same)]
    assert len(found) >= 7
    for code in found:
        with pytest.raises(AssertionError):
            exec(code.replace(limit, wrong) + "\n" + rows[code], {})
