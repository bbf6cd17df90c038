"""Compare the tool calls of answers with those of the references."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from tunesmith.contracts import Measurement, TextModel
from tunesmith.records import Message, Record, last_exchange
from tunesmith_evidence.answers.generate import MAX_NEW_TOKENS
from tunesmith_evidence.answers.tool_calls import Call, find_calls, read_call

MATCH, NAME = "tool-call-match", "tool-name-match"
EXTRA_TOKENS = 48
"""Tokens for the marks around a call, and for the end of the turn."""


@dataclass(frozen=True, kw_only=True)
class ToolCallMatch:
    """Scores 1 for a record if the answer has exactly the calls of the reference, in order."""

    any_order: bool = False
    max_new_tokens: Literal["auto"] | int = "auto"

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return the evaluator with the limit of tokens for these references."""
        return replace(self, max_new_tokens=self._choose_limit(references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare its calls.

        An answer without calls is right where the reference has none.
        """
        exchanges = [last_exchange(record) for record in records]
        generated = model.generate([prompt for prompt, _ in exchanges], self._choose_limit(records))
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

    def _choose_limit(self, references: Sequence[Record]) -> int:
        if isinstance(self.max_new_tokens, int):
            return self.max_new_tokens
        return choose_max_new_tokens([last_exchange(record)[1] for record in references])

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


def choose_max_new_tokens(answers: Sequence[Message]) -> int:
    """Return a limit that is large enough for the longest reference with its calls."""
    lengths = [
        len(answer.text.encode())
        + sum(len(f"{c.name}{c.arguments}".encode()) + EXTRA_TOKENS for c in answer.tool_calls)
        for answer in answers
    ]
    return min(max(lengths, default=0) + EXTRA_TOKENS, MAX_NEW_TOKENS)
