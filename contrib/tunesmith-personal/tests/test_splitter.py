"""Splitter ``per-user``: each user's rows are split by their content, independently of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from people import make_records, make_rows

from tunesmith.contracts import SplitRequest
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith_personal.options import PerUserOptions
from tunesmith_personal.splitter import PerUser, find_users


def split(records: Sequence[Record], **request: Any) -> dict[str, set[str]]:
    """Return the prompts of each part, with their users."""
    fields = {"test": True, "validation": True, "test_size": 0.2, "needs_validation": False}
    asked = SplitRequest(records=records, seed=3, **{**fields, **request})
    found = PerUser(PerUserOptions()).split(records, asked)
    parts = {"train": found.train, "validation": found.validation, "test": found.test}
    return {
        name: {f"{records[row].group}: {records[row].prompt}" for row in rows}  # type: ignore[attr-defined]
        for name, rows in parts.items()
    }


def of_user(parts: dict[str, set[str]], user: str) -> dict[str, set[str]]:
    return {name: {text for text in texts if user in text} for name, texts in parts.items()}


def test_a_users_split_does_not_depend_on_the_others_or_on_the_order() -> None:
    rows = make_rows(4, 30)
    together = of_user(split(make_records(rows)), "user-02")
    alone = split(make_records([row for row in rows if row["user"] == "user-02"][::-1]))
    assert together == alone
    assert [len(texts) for texts in alone.values()] == [19, 5, 6]


def test_equal_prompts_of_a_user_stay_together() -> None:
    rows = [{**row, "prompt": row["prompt"].upper()} for row in make_rows(1, 10)]
    doubled = make_records([*make_rows(1, 10), *rows])
    parts = [{text.casefold() for text in texts} for texts in split(doubled).values()]
    assert all(not one & other for one in parts for other in parts if one is not other)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1])])
def test_few_rows_give_each_part_a_row_if_possible(count: int, sizes: list[int]) -> None:
    parts = split(make_records(make_rows(1, count)))
    assert [len(texts) for texts in parts.values()] == sizes


def test_only_the_parts_that_are_needed_are_made() -> None:
    records = make_records(make_rows(2, 10))
    assert not split(records, test=False)["test"]
    assert not split(records, validation=False)["validation"]


def test_a_number_of_test_rows_is_refused() -> None:
    with pytest.raises(DataError, match="a share of each user's rows"):
        split(make_records(make_rows(1, 9)), test_size=3)


def test_rows_of_a_user_are_one_unit() -> None:
    units = find_users(make_records(make_rows(2, 3)))
    assert len(set(units)) == 2 and units[0] == units[1] == units[2] != units[3]
