"""Compare the tool calls of answers with those of the references."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from tunesmith.contracts import Measurement, TextModel
from tunesmith.records import Record, last_exchange
from tunesmith_evidence.answers.tool_calls import Call, find_calls, read_call

MATCH, NAME = "tool-call-match", "tool-name-match"


@dataclass(frozen=True, kw_only=True)
class ToolCallMatch:
    """Scores 1 for a record if the answer has exactly the calls of the reference, in order."""

    any_order: bool = False
    find_limit: Callable[[Sequence[Record]], int]
    """Returns the most tokens of an answer to one of the records."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return the evaluator with the limit of tokens for these references."""
        limit = self.find_limit(references)
        return replace(self, find_limit=lambda records: limit)

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare its calls.

        An answer without calls is right where the reference has none.
        """
        exchanges = [last_exchange(record) for record in records]
        generated = model.generate([prompt for prompt, _ in exchanges], self.find_limit(records))
        outputs = tuple(generation.text for generation in generated)
        given = [find_calls(output) for output in outputs]
        expected = [[*map(read_call, answer.tool_calls)] for _, answer in exchanges]
        return [
            Measurement(
                metric=MATCH,
                values=tuple(map(self._compare, given, expected)),
                outputs=outputs,
            ),
            Measurement(
                metric=NAME,
                values=tuple(
                    self._compare(
                        [(name, None) for name, _ in calls], [(n, None) for n, _ in right]
                    )
                    for calls, right in zip(given, expected, strict=True)
                ),
            ),
        ]

    def _compare(self, given: Sequence[Call], expected: Sequence[Call]) -> float:
        first, second = [*map(canonical, given)], [*map(canonical, expected)]
        if self.any_order:
            first.sort()
            second.sort()
        return float(first == second)


def canonical(call: Call) -> str:
    """Return a text that equal calls have in common: keys sorted, 1.0 as 1."""
    return json.dumps([call[0], _plain_numbers(call[1])], sort_keys=True)


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_numbers(below) for key, below in value.items()}
    if isinstance(value, list):
        return [*map(_plain_numbers, value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value
