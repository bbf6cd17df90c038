"""Offer of ``tool-call``: its options, and the records it is used for by default."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import Evaluator
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith_evidence.answers.generate import MAX_NEW_TOKENS, AnswerOptions, with_reasoning

EXTRA_TOKENS = 48
"""Tokens for the marks around a call, and for the end of the turn."""


class ToolCallOptions(AnswerOptions):
    """Options: the order of calls, and how long an answer may be."""

    any_order: bool = Field(False, description="Calls in another order are right too.")

    def answer_limit(self, records: Sequence[Record]) -> int:
        """Return a limit that is large enough for the longest reference with its calls."""
        if self.max_new_tokens != "auto":
            return self.max_new_tokens
        answers = [last_exchange(record)[1] for record in records]
        lengths = [
            len(with_reasoning(answer).encode())
            + sum(len(f"{c.name}{c.arguments}".encode()) + EXTRA_TOKENS for c in answer.tool_calls)
            for answer in answers
        ]
        return min(max(lengths, default=0) + EXTRA_TOKENS, MAX_NEW_TOKENS)


def build(options: ToolCallOptions) -> Evaluator:
    """Build the evaluator."""
    from tunesmith_plugins.evaluators.tool_call.evaluator import ToolCallMatch

    return ToolCallMatch(any_order=options.any_order, find_limit=options.answer_limit)


def have_calls(records: Sequence[Record]) -> bool:
    """Return True if an answer calls a tool."""
    return any(
        isinstance(record, Chat) and last_exchange(record)[1].tool_calls for record in records
    )


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
