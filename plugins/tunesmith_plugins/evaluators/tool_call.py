"""The ``tool-call`` evaluator: measure the share of answers with the right tools and arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import Field

from tunesmith.contracts import Evaluator, Measurement, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Message, Prompt, Record, exchanges
from tunesmith_evidence.answers.generate import (
    MAX_NEW_TOKENS,
    AnswerOptions,
    format_reasoning_and_answer,
)
from tunesmith_evidence.answers.tool_calls import Call, find_tool_calls, parse_tool_call

MATCH, NAME = "tool-call-match", "tool-name-match"


@dataclass(frozen=True, kw_only=True)
class ToolCallMatch:
    """Scores 1 for a record if the answer makes exactly the reference's calls, in order.

    In a conversation, the last answer with a call is measured. If there is no call, the last answer
    is measured, and it must not make one.
    """

    any_order: bool = False
    find_limit: Callable[[Sequence[Record]], int]
    """Returns the maximum tokens per answer for these records."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        limit = self.find_limit(references)
        return replace(self, find_limit=lambda records: limit)

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare its calls.

        An answer without calls is right if the reference has no calls either.
        """
        measured = [find_call(record) for record in records]
        generated = model.generate([prompt for prompt, _ in measured], self.find_limit(records))
        outputs = tuple(generation.text for generation in generated)
        given = [find_tool_calls(output) for output in outputs]
        expected = [[*map(parse_tool_call, answer.tool_calls)] for _, answer in measured]
        return [
            Measurement(
                metric=MATCH,
                values=tuple(map(self._compare, given, expected)),
                outputs=outputs,
                exchanges=measured,
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
        first, second = [*map(canonicalize_call, given)], [*map(canonicalize_call, expected)]
        if self.any_order:
            first.sort()
            second.sort()
        return float(first == second)


def find_call(record: Record) -> tuple[Prompt, Message]:
    """Return the last exchange with a tool call, or the last exchange if there is no call."""
    found = [*exchanges(record)]
    return next((pair for pair in reversed(found) if pair[1].tool_calls), found[-1])


def canonicalize_call(call: Call) -> str:
    """Return the same text for all spellings of a call, with sorted keys and 1.0 written as 1."""
    return json.dumps([call[0], _plain_numbers(call[1])], sort_keys=True)


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_numbers(below) for key, below in value.items()}
    if isinstance(value, list):
        return [*map(_plain_numbers, value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


EXTRA_TOKENS = 48
"""Extra tokens for the markers around each call, and for the end of the turn."""


class ToolCallOptions(AnswerOptions):
    """Options of ``tool-call``: whether the order of calls matters, and the answer length."""

    any_order: bool = Field(False, description="Accept calls in any order.")

    def answer_limit(self, records: Sequence[Record]) -> int:
        """Return a token limit that is large enough for the longest reference with its calls."""
        if self.max_new_tokens != "auto":
            return self.max_new_tokens
        answers = [find_call(record)[1] for record in records]
        lengths = [
            len(format_reasoning_and_answer(answer).encode())
            + sum(len(f"{c.name}{c.arguments}".encode()) + EXTRA_TOKENS for c in answer.tool_calls)
            for answer in answers
        ]
        return min(max(lengths, default=0) + EXTRA_TOKENS, MAX_NEW_TOKENS)


def build(options: ToolCallOptions) -> Evaluator:
    """Create the evaluator from its options."""
    return ToolCallMatch(any_order=options.any_order, find_limit=options.answer_limit)


def have_calls(records: Sequence[Record]) -> bool:
    """Return True if any answer calls a tool."""
    return any(isinstance(record, Chat) and find_call(record)[1].tool_calls for record in records)


TOOL_CALL = EvaluatorOffer(
    name="tool-call",
    summary="share of answers that call the right tools with the right arguments, in order",
    config=ToolCallOptions,
    build=build,
    metrics=(
        Metric(name="tool-call-match", higher_is_better=True, bounds=(0, 1)),
        Metric(name="tool-name-match", higher_is_better=True, bounds=(0, 1)),
    ),
    accepts=frozenset({Chat, Completion}),
    generates=True,
    answer_limit=ToolCallOptions.answer_limit,
    default_for=have_calls,
)
