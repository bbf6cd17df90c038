"""Worked examples that a component's author writes: data, and the results to return for it.

Other checks find many faults. But only an example finds a loader that loses a weight, or an
evaluator whose values are wrong by a constant factor. Pass examples to the kit by offer::

    examples={
        "lines": [LoaderExample(options={"train": "good.txt"}, train=[...], skipped=1)],
        "shouting": [EvaluatorExample(records=[...], answers={...}, values={"shouting": [1, 0]})],
        "tunesmith_review_data": [ReviewExample(train=[...], finds="have a link")],
    }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.records import Record


@dataclass(frozen=True, kw_only=True)
class LoaderExample:
    """The records that a data loader must return for some data, in order."""

    options: Mapping[str, Any]
    """Options that name the data."""
    train: Sequence[Record]
    """Expected training records; their ``source`` is not compared."""
    test: Sequence[Record] = ()
    """Expected test records, if the loader returns any."""
    skipped: int = 0
    """Expected number of skipped rows."""


@dataclass(frozen=True, kw_only=True)
class EvaluatorExample:
    """The values that an evaluator must measure for a model's answers."""

    records: Sequence[Record]
    """The records to measure on."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """The model's answers, by the last message of the prompt or by the plain prompt."""
    logprobs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Log-probabilities of tokens, in nats, by completion."""
    values: Mapping[str, Sequence[float]]
    """Expected values by metric, one value for each record."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the evaluator; others keep their defaults."""


@dataclass(frozen=True, kw_only=True)
class ReviewExample:
    """The findings that ``tunesmith_review_data`` must return for some records."""

    train: Sequence[Record]
    """Training records for the hook to review."""
    validation: Sequence[Record] = ()
    """Validation records."""
    test: Sequence[Record] = ()
    """Test records."""
    finds: str = ""
    """Text that one finding's message must contain; empty: no warnings or errors are allowed."""


Example = LoaderExample | EvaluatorExample | ReviewExample
Examples = Mapping[str, Sequence[Example]]
"""Examples by name of the offer; the key of examples for a review hook is the hook's name."""
