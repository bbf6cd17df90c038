"""Review of test answers with labels: ``reward-margin`` compares good ones with bad ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Record, UnpairedPreference
from tunesmith_plugins.evaluators.reward_margin.offer import RewardMarginOptions, has_labels


def review(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error if all labeled answers that would be measured are of one kind."""
    is_named = any(isinstance(e.config, RewardMarginOptions) for e in plan.evaluators)
    if not is_named and (plan.evaluators or not has_labels(test)):
        return
    labels = [record.label for record in test if isinstance(record, UnpairedPreference)]
    if len(set(labels)) == 1:
        kind = "good" if labels[0] else "bad"
        message = (
            f"all {len(labels)} test answers with a label are {kind}, and reward-margin "
            "compares good ones with bad ones: hold out more rows (data.test_size), or name other "
            "evaluators"
        )
        yield Finding(level="error", where="data.test_size", message=message)
