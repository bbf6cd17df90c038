"""The committed functions pass their own tests and keep to the conventions."""

from __future__ import annotations

import json
from importlib import resources

import pytest

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
