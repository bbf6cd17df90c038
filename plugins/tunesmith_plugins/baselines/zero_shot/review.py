"""Review of JSON answers: a missing library leaves the base model without constrained answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Record

SAMPLE = 200
"""Training rows by which JSON answers are recognized."""


def review(plan: Plan, train: Sequence[Record]) -> Iterator[Finding]:
    """Yield a note if the baseline is used on JSON answers and they cannot be constrained."""
    from tunesmith_evidence.prompting.json_model import HINT, is_installed
    from tunesmith_evidence.tasks.kinds import task_of

    used = plan.baseline_options.use is None or "zero-shot" in plan.baseline_options.use
    if used and not is_installed() and task_of([*islice(train, SAMPLE)]) == "objects":
        yield Finding(
            level="info",
            where="baselines.zero-shot",
            message="JSON answers of the base model are not constrained to a schema: llguidance is "
            "not installed",
            hint=HINT,
        )
