"""Find evaluators in the run file that cannot measure the test rows.

Without this check, a run would fail only after loading the base model. Default evaluators always
fit the rows, so they need no check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Record


def review(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error for each evaluator and each kind of test rows that it does not accept."""
    first = {type(record): record.source for record in reversed(test)}
    for number, evaluator in enumerate(plan.evaluators):
        accepts = evaluator.offer.accepts
        if accepts is None:
            continue
        for kind in sorted(first.keys() - accepts, key=lambda kind: kind.__name__):
            known = ", ".join(sorted(accepted.__name__ for accepted in accepts))
            message = (
                f"{evaluator.id} cannot measure {kind.__name__} records, such as {first[kind]}; it "
                f"only measures {known}"
            )
            hint = "remove it; without [[evaluators]], a run uses evaluators that fit the rows"
            where = f"evaluators.{number}.use"
            yield Finding(level="error", where=where, message=message, hint=hint)
