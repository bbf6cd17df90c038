"""Check whether the loss of ``preference`` can learn from the labels of the training rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith_plugins.techniques.preference.labels import (
    LabelCounts,
    find_imbalance,
    find_label_problem,
)
from tunesmith_plugins.techniques.preference.options import PreferenceOptions


def review_labels(plan: Plan, train: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error if the loss cannot learn from the rows, or a warning about an imbalance."""
    options = plan.technique.config
    if not isinstance(options, PreferenceOptions):
        return
    counts = LabelCounts.of_records(train)
    if problem := find_label_problem(counts, options.loss):
        yield Finding(level="error", where="technique.loss.type", message=problem)
    elif warning := find_imbalance(counts, options.loss):
        yield Finding(level="warning", where="technique.loss", message=warning)
