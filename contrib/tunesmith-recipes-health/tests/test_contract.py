"""The plugin passes the conformance kit."""

from __future__ import annotations

from typing import Any

from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, ReviewExample, parametrize_checks
from tunesmith_recipes_health import PLUGIN

ROWS = [
    Completion(source="row:1", prompt="Aspirin 100 mg daily.", completion="START aspirin 100 mg"),
    Completion(source="row:2", prompt="Hold the warfarin.", completion="HOLD warfarin"),
    Completion(source="row:3", prompt="Give some insulin.", completion="ASK dose of insulin"),
]
EXAMPLES = {
    "medication": [
        EvaluatorExample(
            records=ROWS,
            answers={
                ROWS[0].prompt: "aspirin 0.1 g",
                ROWS[1].prompt: "",
                ROWS[2].prompt: "insulin",
            },
            values={
                "orders-safe": (1, 0, 0),
                "doses-preserved": (1, 1, 1),
                "negations-preserved": (1, 0, 1),
                "questions-preserved": (1, 1, 0),
            },
        ),
        EvaluatorExample(
            records=ROWS[:1],
            answers={ROWS[0].prompt: "aspirin 10 mg"},
            values={"orders-safe": (0,), "doses-preserved": (0,)},
        ),
    ],
    "tunesmith_review_data": [
        ReviewExample(train=ROWS),
        ReviewExample(
            train=[Completion(source="row:1", prompt="Mrs Okafor coughs.", completion="ok")],
            finds="name",
        ),
    ],
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()
