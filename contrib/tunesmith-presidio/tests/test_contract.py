"""The plugin passes the conformance kit."""

from __future__ import annotations

from typing import Any

from tunesmith.records import Completion
from tunesmith.testing import ReviewExample, parametrize_checks
from tunesmith_presidio import PLUGIN

CLEAN = [Completion(source="row:1", prompt="Is the wifi down?", completion="network")]
PERSONAL = [Completion(source="row:1", prompt="From 203.0.113.9", completion="blocked")]
EXAMPLES = {
    "tunesmith_review_data": [
        ReviewExample(train=CLEAN),
        ReviewExample(train=PERSONAL, finds="IP address"),
    ]
}


@parametrize_checks(PLUGIN, examples=EXAMPLES)
def test_contract(check: Any) -> None:
    check()
