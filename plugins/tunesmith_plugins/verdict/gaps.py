"""Find the baselines that a run did not measure, or did not measure fully.

The verdict FINE-TUNE claims that no simpler solution would have been enough. It therefore needs a
baseline of each kind that suits the rows: majority class, classifier, prompt, and prompt with
retrieved examples. The run must have compared all variants of a baseline on the validation rows,
and scored the best variant on enough test rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunesmith.events import JSON, BaselineChosen
from tunesmith.install import NO_ENCODER, NO_HIDDEN_STATES, install_encoder
from tunesmith.plan import Evidence
from tunesmith.text import format_count
from tunesmith_evidence.report.headline import describe_not_measured
from tunesmith_plugins.verdict.paired_comparisons import PairedComparison

ENOUGH_ROWS = 100
"""Number of test rows needed to score the best baseline of a kind, or all rows if there are fewer.

Fewer rows are enough if the whole interval of the difference lies above the margin. With 20 to 50
rows and a tuned model that is better by exactly the margin, this happens in at most 3 % of runs
(computed by enumerating all outcomes)."""
KINDS = {
    "constant": "constant baseline",
    "classifier": "classifier",
    "prompt": "prompt",
    "retrieval": "prompt with retrieved examples",
}
NAMED_VARIANTS = 3


@dataclass(frozen=True)
class Gap:
    """A baseline that was not measured (fully), with the reason."""

    baseline: str
    solution: str
    reason: str
    excluded: bool
    """True if the run file excludes the baseline, so that another one of its kind can fill in."""

    @property
    def is_unavailable(self) -> bool:
        """True if the baseline needs an encoder or hidden states that this run does not have."""
        return any(text in self.reason for text in (NO_ENCODER, NO_HIDDEN_STATES))

    def to_json(self) -> JSON:
        """Return the gap as JSON, as it appears in the report."""
        return {"baseline": self.baseline, "solution": self.solution, "reason": self.reason}


def find_gaps(evidence: Evidence, comparisons: Sequence[PairedComparison]) -> list[Gap]:
    """Return each baseline that suits the rows but was not measured with all of its variants."""
    scored = {comparison.name for comparison in comparisons}
    found = []
    for event in evidence.baselines:
        reason = "; ".join(_list_reasons(event, is_scored=event.baseline in scored))
        if reason:
            found.append(Gap(event.baseline, event.solution, reason, event.excluded))
    return found


def find_few_row_gaps(
    comparisons: Sequence[PairedComparison], total: int, margin: float
) -> list[Gap]:
    """Return each baseline that is the best of its kind but was scored on too few test rows.

    Args:
        comparisons: the comparisons with all baselines.
        total: number of test rows that the tuned model was scored on.
        margin: smallest advantage that makes tuning worthwhile.
    """
    gaps = []
    for comparison in comparisons:
        advantage = comparison.advantage()
        is_enough = advantage.n >= min(ENOUGH_ROWS, total) or advantage.low >= margin
        if not is_enough and _is_best_of_kind(comparison, comparisons):
            reason = f"scored on {advantage.n:,} of {total:,} test rows"
            gaps.append(Gap(comparison.name, comparison.solution, reason, excluded=False))
    return gaps


def find_blocking_gaps(evidence: Evidence, gaps: Sequence[Gap]) -> list[Gap]:
    """Return the gaps that rule out the verdict FINE-TUNE.

    A baseline that the run file excludes, or that has no encoder, counts as missing only if no
    other baseline of its kind was fully measured.
    """
    incomplete = {gap.baseline for gap in gaps}
    complete = {event.solution for event in evidence.baselines if event.baseline not in incomplete}
    return [
        gap
        for gap in gaps
        if gap.solution not in complete or not (gap.excluded or gap.is_unavailable)
    ]


def describe_gaps(gaps: Sequence[Gap]) -> str:
    """Return the baselines that were not fully measured as text, grouped by reason."""
    return describe_not_measured([gap.to_json() for gap in gaps])


def describe_remedy(evidence: Evidence, gaps: Sequence[Gap]) -> str:
    """Return the settings that would measure the missing baselines, as text."""
    options = evidence.plan.baseline_options
    remedies = []
    if any(gap.excluded for gap in gaps):
        remedies.append("these baselines in [baselines] use")
    if any("budget" in gap.reason for gap in gaps):
        remedies.append(f"a [baselines] budget above {options.budget}")
    if any("validation rows" in gap.reason for gap in gaps):
        remedies.append("[split] validation_size = 20")
    if any("test rows" in gap.reason for gap in gaps):
        remedies.append(f"[baselines] rows = {ENOUGH_ROWS}")
    if any(NO_ENCODER in gap.reason for gap in gaps):
        remedies.append(f"an encoder (`{install_encoder()}`)")
    return " and ".join(remedies) or "a measurement of these baselines"


def _list_reasons(event: BaselineChosen, *, is_scored: bool) -> Iterator[str]:
    """Yield the reasons why a baseline or some of its variants were not measured."""
    if event.skipped:
        yield event.skipped
        return
    if not is_scored:
        yield "it was not scored on the test rows"
    by_reason: dict[str, list[str]] = {}
    for variant in event.not_tried:
        by_reason.setdefault(str(variant["reason"]), []).append(str(variant["name"]))
    for reason, names in by_reason.items():
        named = [name for name in names if name][:NAMED_VARIANTS]
        listed = f" ({', '.join(named)}{', ...' if len(named) < len(names) else ''})"
        count = format_count(len(names), "variant")
        yield f"{count}{listed if named else ''} not tried: {reason}"


def _is_best_of_kind(comparison: PairedComparison, comparisons: Sequence[PairedComparison]) -> bool:
    """Return True if no baseline of the same kind has a better validation score."""
    alike = [other for other in comparisons if other.solution == comparison.solution]
    if any(c.validation_score is None for c in alike):
        return True
    best = max(comparison.sign * (c.validation_score or 0.0) for c in alike)
    return comparison.sign * (comparison.validation_score or 0.0) >= best
