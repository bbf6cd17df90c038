"""Tests of problems made of pydantic's errors; test_read_plan.py has those of whole run files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from tunesmith.config.problems import convert_problems
from tunesmith.options import Options, from_table


class Inner(Options):
    rank: int = Field(4, ge=1)


class Outer(Options):
    EARLIER: ClassVar[Mapping[str, str]] = {"old": "sizes"}

    adapter: Inner = Inner()
    sizes: tuple[int, ...] = Field((1,), strict=False)


@pytest.mark.parametrize(
    ("table", "where", "text"),
    [
        ({"adapter": {"rank": 0}}, "t.adapter.rank", "greater than or equal to 1, got 0"),
        ({"adapter": 3}, "t.adapter", "must be a table"),
        ({"rnk": 3}, "t.rnk", 'did you mean "adapter.rank"?'),
        ({"size": [3]}, "t.size", 'did you mean "sizes"?'),
        ({"old": 3}, "t.old", 'was renamed to "sizes"'),
        ({"sizes": [1, "x"]}, "t.sizes.1", "got 'x'"),
    ],
)
def test_each_error_names_the_key_and_what_to_do(
    table: dict[str, object], where: str, text: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        from_table(Outer, table)
    (problem,) = convert_problems(caught.value, "t", Outer)
    assert problem.where == where
    assert text in f"{problem.what} {problem.hint}"
