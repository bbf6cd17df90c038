"""Evaluators that measure any rows by the rules of all test rows.

A baseline may be measured on a part of the test rows, and the tuned model on all of them. What an
evaluator derives from rows, as a limit of tokens, labels or a schema, must be the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

from tunesmith.contracts import Evaluator
from tunesmith.records import Record


@runtime_checkable
class PreparedEvaluator(Evaluator, Protocol):
    """An evaluator that says what it derives from rows: a limit of tokens, labels, a schema.

    One without ``prepare`` is shown all test rows in every measurement, and the model gives empty
    answers to those that are not measured.
    """

    def prepare(self, references: Sequence[Record]) -> Evaluator:
        """Return the evaluator for these test rows; it then measures any rows by the same rules."""
        ...


class RowWise:
    """Base of evaluators that derive nothing from rows: a value depends on its own row alone."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return the evaluator as it is."""
        return self
