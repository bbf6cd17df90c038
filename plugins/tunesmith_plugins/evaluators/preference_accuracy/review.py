"""Review of test pairs: where length alone tells which answer was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Preference, Record
from tunesmith_plugins.evaluators.preference_accuracy.length import LengthPreference
from tunesmith_plugins.evaluators.preference_accuracy.offer import (
    PreferenceAccuracyOptions,
    are_pairs,
)


def review(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a warning if a model that knows nothing but lengths would be right in most pairs."""
    is_named = any(isinstance(e.config, PreferenceAccuracyOptions) for e in plan.evaluators)
    if not is_named and (plan.evaluators or not are_pairs(test)):
        return
    pairs = [record for record in test if isinstance(record, Preference)]
    chosen = LengthPreference.count(
        [len(pair.chosen) - len(pair.rejected) for pair in pairs], [pair.group for pair in pairs]
    )
    if chosen.explains_most:
        yield Finding(
            level="warning",
            where="evaluators preference-accuracy",
            message=f"the {chosen.word} answer is the chosen one in {chosen} that are held out: "
            f"a model that prefers {chosen.word} answers, whatever they say, has that accuracy",
            hint="compare preference-accuracy with this number, or hold out pairs in which "
            "either length is chosen about equally often",
            count=max(chosen.shorter, chosen.longer),
        )
