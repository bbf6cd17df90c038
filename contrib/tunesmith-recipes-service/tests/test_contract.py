"""The plugin passes the conformance kit."""

from __future__ import annotations

from typing import Any

from tunesmith.records import Completion
from tunesmith.testing import EvaluatorExample, parametrize_checks
from tunesmith_recipes_service import PLUGIN

ROWS = [
    Completion(source="row:1", prompt="Broken!", completion="We refund 40 EUR. Hygge Home"),
    Completion(source="row:2", prompt="It hurt me!", completion="A supervisor calls. Hygge Home"),
]
OPTIONS = {"actions": {"refund": ["refund"]}, "escalation": ["supervisor"], "brand": ["Hygge Home"]}
EXAMPLES = {
    "service-reply": [
        EvaluatorExample(
            records=ROWS,
            answers={"Broken!": "A refund of 40.00 EUR, Hygge Home", "It hurt me!": "hygge home"},
            values={
                "reply-acceptable": (1, 0),
                "policy-kept": (1, 1),
                "escalation-right": (1, 0),
                "brand-kept": (1, 0),
            },
            options=OPTIONS,
        )
    ]
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()
