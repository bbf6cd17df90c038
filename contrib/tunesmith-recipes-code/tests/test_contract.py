"""The plugin passes the conformance kit."""

from __future__ import annotations

from typing import Any

from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, ReviewExample, parametrize_checks
from tunesmith_recipes_code import PLUGIN

GOOD = 'def get_a(b: int) -> int:\n    """Return b."""\n    return b'
ROWS = [
    Completion(source="row:1", prompt="one", completion=GOOD),
    Completion(source="row:2", prompt="two", completion=GOOD),
    Completion(source="row:3", prompt="three", completion=GOOD),
]
EXAMPLES = {
    "house-style": [
        EvaluatorExample(
            records=ROWS,
            answers={
                "one": GOOD.replace("get_a", "get_other"),
                "two": GOOD.replace("get_a", "getA"),
                "three": "no code",
            },
            values={"conventions-kept": (1, 0, 0), "code-parses": (1, 1, 0)},
        )
    ],
    "tunesmith_review_data": [
        ReviewExample(train=ROWS),
        ReviewExample(
            train=[Completion(source="row:1", prompt="# Copyright (c) 2024 Acme", completion="")],
            finds="copyright",
        ),
    ],
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()
