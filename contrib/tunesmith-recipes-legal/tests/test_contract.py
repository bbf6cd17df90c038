"""The plugin passes the conformance kit."""

from __future__ import annotations

from typing import Any

from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, ReviewExample, parametrize_checks
from tunesmith_recipes_legal import PLUGIN

ROWS = [
    Completion(source="row:1", prompt="7.1 No liability.", completion="HIGH 7.1 liability"),
    Completion(source="row:2", prompt="3.2 Ninety days.", completion="MEDIUM 3.2 notice"),
    Completion(source="row:3", prompt="5.1 All is well.", completion="OK"),
]
EXAMPLES = {
    "clause-review": [
        EvaluatorExample(
            records=ROWS,
            answers={
                ROWS[0].prompt: "Clause 7.1 is a high risk",
                ROWS[1].prompt: "HIGH 3.2 notice",
                ROWS[2].prompt: "MEDIUM 5.9 payment",
            },
            values={
                "review-sound": (1, 0, 0),
                "citations-exist": (1, 1, 0),
                "citations-right": (1, 1, 0),
                "risks-right": (1, 0, 0),
            },
        )
    ],
    "tunesmith_review_data": [
        ReviewExample(train=ROWS),
        ReviewExample(
            train=[Completion(source="row:1", prompt="Attorney-client memo", completion="ok")],
            finds="privilege",
        ),
    ],
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()
