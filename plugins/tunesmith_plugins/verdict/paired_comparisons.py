"""Compare the tuned model with each baseline on the test rows that both models answered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from tunesmith.events import JSON, TUNED, BaselineChosen, Measured
from tunesmith.plan import Evidence
from tunesmith.statistics import Interval, mean_interval
from tunesmith.statistics.sample import Bounds, build_sample, standard_error
from tunesmith_evidence.pairs import PairedRows, read_pairs
from tunesmith_evidence.statistics import (
    Comparison,
    adjust_p_values,
    compare,
    paired_difference,
)
from tunesmith_evidence.statistics.differences import paired_differences

ROUNDING_TOLERANCE = 1e-9


@dataclass(frozen=True)
class PairedComparison:
    """Compares the tuned model with another model, by one metric on the rows that both answered.

    The *advantage* is the difference, with its sign flipped for metrics where lower is better. It
    is positive if the tuned model is better.
    """

    measured: Measured
    baseline: BaselineChosen | None
    """The baseline's kind, or None for a technique stage, which is not an alternative to tuning."""
    pairs: PairedRows
    confidence: float

    @property
    def name(self) -> str:
        return self.measured.model

    @property
    def is_trivial(self) -> bool:
        """True for the majority-class baseline or a rule by length, which ignore the prompt."""
        return self.solution == "constant"

    @property
    def rule(self) -> str:
        """The rule of a trivial baseline that ranks answers, such as ``the longer answer wins``."""
        return self.baseline.variant if self.baseline and self.is_trivial else ""

    @property
    def kind(self) -> str:
        """The name of a trivial baseline for use in sentences."""
        return f'the rule "{self.rule}"' if self.rule else "the majority-class baseline"

    @property
    def solution(self) -> str:
        """The baseline's kind, or ``"stage"``."""
        return self.baseline.solution if self.baseline else "stage"

    @property
    def is_share(self) -> bool:
        """True if the metric has no unit, such as accuracy."""
        return not self.measured.unit

    @property
    def sign(self) -> int:
        return 1 if self.measured.higher_is_better else -1

    @property
    def validation_score(self) -> float | None:
        return None if self.baseline is None else self.baseline.validation_score

    @cached_property
    def comparison(self) -> Comparison:
        """The paired comparison at the verdict's confidence level."""
        return compare(
            self.pairs.baseline_values,
            self.pairs.tuned_values,
            self.measured.higher_is_better,
            weights=self.pairs.weights,
            groups=self.pairs.groups,
            confidence=self.confidence,
            bounds=self.bounds,
        )

    @cached_property
    def values(self) -> tuple[float, float]:
        """The mean scores of the baseline and of the tuned model on these rows."""
        baseline, tuned = (
            mean_interval(values, self.pairs.weights, bounds=self.bounds).value
            for values in (self.pairs.baseline_values, self.pairs.tuned_values)
        )
        return baseline, tuned

    def advantage(self, confidence: float | None = None) -> Interval:
        """Return the tuned model's advantage and its confidence interval."""
        difference = self.comparison.difference
        if confidence is not None and confidence != self.confidence:
            difference = paired_difference(
                self.pairs.baseline_values,
                self.pairs.tuned_values,
                self.pairs.weights,
                groups=self.pairs.groups,
                confidence=confidence,
                bounds=self.bounds,
            )
        low, high = sorted((self.sign * difference.low, self.sign * difference.high))
        return Interval(self.sign * difference.value, low, high, difference.n, difference.units)

    @cached_property
    def error(self) -> float:
        """The standard error of the difference, or infinity for a single row or group."""
        differences = paired_differences(self.pairs.baseline_values, self.pairs.tuned_values)
        sample = build_sample(differences, self.pairs.weights, self.pairs.groups)
        return standard_error(sample) if sample.units > 1 else math.inf

    def is_below(self, margin: float, confidence: float | None = None) -> bool:
        """Return True if the interval of the tuned model's advantage lies below ``margin``.

        If all differences are equal and the metric is unbounded, the interval has zero width, no
        matter how few rows there are. Such an interval is not evidence, so the result is False.
        """
        low, high = self.bounds or (-math.inf, math.inf)
        is_informative = self.error > 0 or math.isfinite(high - low)
        return is_informative and self.advantage(confidence).high < margin

    @cached_property
    def bounds(self) -> Bounds | None:
        """The declared bounds of the metric, or 0 and 1 if all values lie between them."""
        values = (*self.pairs.baseline_values, *self.pairs.tuned_values)
        is_share = self.measured.bounds is None and all(0 <= value <= 1 for value in values)
        return (0.0, 1.0) if is_share else self.measured.bounds

    def to_json(self) -> JSON:
        """Return the comparison as it appears in the verdict's JSON."""
        difference = self.comparison.difference
        baseline, tuned = self.values
        chosen, detectable = self.baseline, self.comparison.detectable
        return {
            "solution": self.solution,
            "variant": chosen.variant if chosen else "",
            "cost": chosen.cost if chosen else None,
            "validation_score": self.validation_score,
            "value": baseline,
            "tuned": tuned,
            "n": difference.n,
            "units": difference.units,
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "confidence": self.confidence,
            "p_value": self.comparison.p_value,
            "outcome": self.comparison.outcome,
            "detectable": detectable if math.isfinite(detectable) else None,
        }


def find_comparisons(
    evidence: Evidence, tuned: Measured, confidence: float
) -> list[PairedComparison]:
    """Compare the tuned model with each other model that was measured by the same metric."""
    chosen = {event.baseline: event for event in evidence.baselines}
    comparisons = [
        PairedComparison(
            event,
            chosen.get(event.model),
            read_pairs(evidence.folder, event, tuned, evidence.metrics),
            confidence,
        )
        for event in _measured_alike(evidence.measured, tuned)
    ]
    return [comparison for comparison in comparisons if len(comparison.pairs)]


def _measured_alike(measured: Sequence[Measured], tuned: Measured) -> Iterator[Measured]:
    for event in measured:
        same = (event.metric, event.evaluator) == (tuned.metric, tuned.evaluator)
        if same and event.model != TUNED:
            yield event


def find_strongest(comparisons: Sequence[PairedComparison]) -> tuple[PairedComparison, bool]:
    """Return the strongest baseline, and True if it was chosen by its validation score.

    Of several baselines, the one with the best test score is partly the luckiest. Therefore test
    scores decide only if a baseline has no validation score, or between equal validation scores:
    the tuned model must beat the better one anyway. Other ties go to the cheaper baseline.
    """

    def key(comparison: PairedComparison) -> tuple[float, int]:
        cost = comparison.baseline.cost if comparison.baseline else 0
        return comparison.sign * comparison.measured.value, -cost

    ranked = rank_on_validation(comparisons)
    tied = [c for c in ranked if c.validation_score == ranked[0].validation_score]
    return max(tied or comparisons, key=key), bool(tied)


def rank_on_validation(comparisons: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Sort baselines by validation score, the strongest first; ties go to the cheaper baseline.

    Returns:
        The sorted baselines, or an empty list if any of them has no validation score.
    """
    if any(comparison.validation_score is None for comparison in comparisons):
        return []
    return sorted(
        comparisons,
        key=lambda c: (-c.sign * (c.validation_score or 0.0), c.baseline.cost if c.baseline else 0),
    )


def find_sufficient(
    comparisons: Sequence[PairedComparison], margin: float, confidence: float
) -> list[PairedComparison]:
    """Return the baselines that the tuned model beats by significantly less than ``margin``.

    A baseline is sufficient if the interval of the advantage lies below the margin. Testing several
    baselines would accept an insufficient one too often, so two procedures control the probability
    of any false acceptance. Together they keep it below ``1 - confidence``, and each uses half of
    this probability::

        fixed sequence    in order of validation score, at the plain level, up to the first failure
                          (Maurer, Hothorn and Lehmacher, 1995)
        Holm              all at a corrected level; finds baselines that come late in the sequence

    The fixed sequence is valid because its order does not depend on the test rows. Each procedure
    gets half because only the upper end of a two-sided interval is used: at the uncorrected level,
    its error probability is half of ``1 - confidence``.
    """
    enough = [*takewhile(lambda c: c.is_below(margin), rank_on_validation(comparisons))]
    names, left = set[str](), len(comparisons)
    while left:
        level = verification_level(left, confidence)
        others = [comparison for comparison in comparisons if comparison.name not in names]
        found = {c.name for c in others if c.is_below(margin, level)}
        if not found:
            break
        names |= found
        left -= len(found)
    names |= {comparison.name for comparison in enough}
    return [comparison for comparison in comparisons if comparison.name in names]


def choose_winner(
    evidence: Evidence,
    solutions: Sequence[PairedComparison],
    sufficient: Sequence[PairedComparison],
    margin: float,
) -> PairedComparison:
    """Return the cheapest sufficient baseline that no other solution beats by more than the margin.

    Compare two baselines on the rows that both answered. Choosing among the sufficient baselines on
    the same test rows is valid, because the guarantee of :func:`find_sufficient` covers all of them
    at once.
    """
    behind = {c.name: max(_lead(evidence, other, c) for other in solutions) for c in sufficient}
    near = [c for c in sufficient if behind[c.name] <= margin + ROUNDING_TOLERANCE]
    near = near or [min(sufficient, key=lambda c: behind[c.name])]
    return min(near, key=lambda c: c.baseline.cost if c.baseline else 0)


def _lead(evidence: Evidence, other: PairedComparison, comparison: PairedComparison) -> float:
    """Return the lead of ``other`` over ``comparison`` on the rows that both baselines answered."""
    means = mean_on_shared_rows(evidence, comparison.measured, other.measured)
    return comparison.sign * (means[1] - means[0]) if means else 0.0


def mean_on_shared_rows(
    evidence: Evidence, first: Measured, second: Measured
) -> tuple[float, float] | None:
    """Return two models' mean scores on the rows that both answered.

    The result is None if there are no such rows.
    """
    pairs = read_pairs(evidence.folder, first, second, evidence.metrics)
    if not len(pairs):
        return None
    columns = (pairs.baseline_values, pairs.tuned_values)
    one, other = (mean_interval(v, pairs.weights, resamples=100).value for v in columns)
    return one, other


def verification_level(comparisons: int, confidence: float) -> float:
    """Return the confidence level at which Holm's procedure tests this many comparisons.

    Only the upper end of each two-sided interval is used, which already halves the error.
    """
    return 1 - (1 - confidence) / comparisons


def comparisons_to_json(comparisons: Sequence[PairedComparison]) -> dict[str, JSON]:
    """Return all comparisons as a dict by model name, with Holm-adjusted p-values."""
    adjusted = adjust_p_values([comparison.comparison.p_value for comparison in comparisons])
    return {
        comparison.name: {**comparison.to_json(), "p_value_holm": p_value}
        for comparison, p_value in zip(comparisons, adjusted, strict=True)
    }
