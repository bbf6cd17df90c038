"""Find evaluators of the run file that cannot measure the test rows.

Without this check a run would find that out after it has loaded the base model. Evaluators that the
run file does not name are chosen for the rows, so they are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Record


def review(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error for each evaluator that does not accept a kind of the test rows."""
    first = {type(record): record.source for record in reversed(test)}
    for number, evaluator in enumerate(plan.evaluators):
        accepts = evaluator.offer.accepts
        if accepts is None:
            continue
        for kind in sorted(first.keys() - accepts, key=lambda kind: kind.__name__):
            known = ", ".join(sorted(accepted.__name__ for accepted in accepts))
            message = (
                f"{evaluator.id} cannot measure {kind.__name__} records, such as {first[kind]}; it "
                f"measures {known}: remove it, and without any [[evaluators]] those that fit the "
                "rows are used"
            )
            yield Finding(level="error", where=f"evaluators.{number}.use", message=message)
