"""Evaluators that derive rules from all test rows, then apply them to any rows.

A baseline may be measured on part of the test rows, and the tuned model on all of them. The rules
that an evaluator derives from rows, such as a token limit, labels or a schema, must be the same for
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

from tunesmith.contracts import Evaluator
from tunesmith.records import Record


@runtime_checkable
class PreparedEvaluator(Evaluator, Protocol):
    """An evaluator that derives rules from rows in a separate step, ``prepare``.

    Examples are a token limit, labels, or a schema. An evaluator without ``prepare`` gets all test
    rows in every measurement, and the model gives empty answers to rows that are not measured.
    """

    def prepare(self, references: Sequence[Record]) -> Evaluator:
        """Return an evaluator that applies the rules of these test rows to any rows."""
        ...


class RowWise:
    """Base class of evaluators that compute each value from one row alone."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return the evaluator itself, which has no rules to derive."""
        return self
