"""Compare the tuned model with each rival on the held-out rows that both answered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from tunesmith.events import JSON, TUNED, Measured, RivalChosen
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

ROUNDING = 1e-9


@dataclass(frozen=True)
class Contest:
    """The tuned model against one other model, by one metric on the rows that both answered.

    An advantage is a difference whose sign is turned if lower is better: above 0, the tuned model
    is better.
    """

    measured: Measured
    rival: RivalChosen | None
    """None: a stage of the technique, which is compared but is no alternative to tuning."""
    pairs: PairedRows
    confidence: float

    @property
    def name(self) -> str:
        return self.measured.model

    @property
    def is_trivial(self) -> bool:
        """True if the rival gives one answer to everything, which solves no task."""
        return self.solution == "constant"

    @property
    def solution(self) -> str:
        """The kind of the rival, or ``stage``."""
        return self.rival.solution if self.rival else "stage"

    @property
    def is_share(self) -> bool:
        """True if the metric has no unit, as shares of right answers."""
        return not self.measured.unit

    @property
    def sign(self) -> int:
        return 1 if self.measured.higher_is_better else -1

    @property
    def dev_score(self) -> float | None:
        return None if self.rival is None else self.rival.dev_score

    @cached_property
    def comparison(self) -> Comparison:
        """The comparison at the confidence of the verdict."""
        return compare(
            self.pairs.rival_values,
            self.pairs.tuned_values,
            self.measured.higher_is_better,
            weights=self.pairs.weights,
            groups=self.pairs.groups,
            confidence=self.confidence,
            bounds=self.bounds,
        )

    @cached_property
    def values(self) -> tuple[float, float]:
        """The means of the rival and of the tuned model on these rows."""
        rival, tuned = (
            mean_interval(values, self.pairs.weights, bounds=self.bounds).value
            for values in (self.pairs.rival_values, self.pairs.tuned_values)
        )
        return rival, tuned

    def advantage(self, confidence: float | None = None) -> Interval:
        """Return the advantage of the tuned model with its interval."""
        difference = self.comparison.difference
        if confidence is not None and confidence != self.confidence:
            difference = paired_difference(
                self.pairs.rival_values,
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
        """The standard error of the difference; infinite for a single row or group."""
        differences = paired_differences(self.pairs.rival_values, self.pairs.tuned_values)
        sample = build_sample(differences, self.pairs.weights, self.pairs.groups)
        return standard_error(sample) if sample.units > 1 else math.inf

    def is_below(self, margin: float, confidence: float | None = None) -> bool:
        """Return True if the tuned model is proven to be less than ``margin`` better.

        If all differences are equal and the metric has no bounds, the interval has no width,
        however few the rows are: it proves nothing.
        """
        low, high = self.bounds or (-math.inf, math.inf)
        is_informative = self.error > 0 or math.isfinite(high - low)
        return is_informative and self.advantage(confidence).high < margin

    @cached_property
    def bounds(self) -> Bounds | None:
        """The bounds of the metric; those of a share that has none of its own are 0 and 1."""
        values = (*self.pairs.rival_values, *self.pairs.tuned_values)
        is_share = self.measured.bounds is None and all(0 <= value <= 1 for value in values)
        return (0.0, 1.0) if is_share else self.measured.bounds

    def to_json(self) -> JSON:
        """Return the comparison as a part of the verdict."""
        difference = self.comparison.difference
        rival, tuned = self.values
        chosen, detectable = self.rival, self.comparison.detectable
        return {
            "solution": self.solution,
            "variant": chosen.variant if chosen else "",
            "cost": chosen.cost if chosen else None,
            "dev_score": self.dev_score,
            "value": rival,
            "tuned": tuned,
            "n": difference.n,
            "units": difference.units,
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "p_value": self.comparison.p_value,
            "outcome": self.comparison.outcome,
            "detectable": detectable if math.isfinite(detectable) else None,
        }


def find_contests(evidence: Evidence, tuned: Measured, confidence: float) -> list[Contest]:
    """Return a contest for each model that was measured by the metric of ``tuned``."""
    chosen = {event.rival: event for event in evidence.rivals}
    contests = [
        Contest(
            event,
            chosen.get(event.model),
            read_pairs(evidence.folder, event, tuned, evidence.metrics),
            confidence,
        )
        for event in _measured_alike(evidence.measured, tuned)
    ]
    return [contest for contest in contests if len(contest.pairs)]


def _measured_alike(measured: Sequence[Measured], tuned: Measured) -> Iterator[Measured]:
    for event in measured:
        same = (event.metric, event.evaluator) == (tuned.metric, tuned.evaluator)
        if same and event.model != TUNED:
            yield event


def find_strongest(contests: Sequence[Contest]) -> tuple[Contest, bool]:
    """Return the strongest rival, and True if it was chosen by its score on dev rows.

    The score on the held-out rows would be partly luck of the rows by which it is judged. It
    decides only if a rival has no score on dev rows. Of equal rivals the cheapest is chosen.
    """

    def key(score: float, contest: Contest) -> tuple[float, int]:
        return contest.sign * score, -(contest.rival.cost if contest.rival else 0)

    scored = [(c.dev_score, c) for c in contests if c.dev_score is not None]
    if len(scored) == len(contests):
        return max(scored, key=lambda item: key(*item))[1], True
    return max(contests, key=lambda contest: key(contest.measured.value, contest)), False


def rank_on_dev(contests: Sequence[Contest]) -> list[Contest]:
    """Return the rivals from the strongest on the dev rows to the weakest, of equals the cheapest.

    It is empty if one has no score on dev rows.
    """
    if any(contest.dev_score is None for contest in contests):
        return []
    return sorted(
        contests,
        key=lambda c: (-c.sign * (c.dev_score or 0.0), c.rival.cost if c.rival else 0),
    )


def find_sufficient(contests: Sequence[Contest], margin: float, confidence: float) -> list[Contest]:
    """Return the rivals that the tuned model is proven to be less than ``margin`` better than.

    Each interval, at ``confidence``, lies below the margin. The cheapest of several is looked for,
    so two procedures keep the probability of one false proof or more at most at ``1 - confidence``,
    each at half of it. The first tests the rivals in the order of their dev scores, which the
    held-out rows did not make, up to the first one that fails (fixed sequence; Maurer, Hothorn and
    Lehmacher, 1995). Holm's procedure finds those that come late in this order.
    """
    proven = [*takewhile(lambda c: c.is_below(margin), rank_on_dev(contests))]
    names, left = set[str](), len(contests)
    while left:
        level = level_of_proof(left, confidence)
        others = [contest for contest in contests if contest.name not in names]
        found = {c.name for c in others if c.is_below(margin, level)}
        if not found:
            break
        names |= found
        left -= len(found)
    names |= {contest.name for contest in proven}
    return [contest for contest in contests if contest.name in names]


def choose_winner(
    evidence: Evidence, solutions: Sequence[Contest], sufficient: Sequence[Contest], margin: float
) -> Contest:
    """Return the cheapest sufficient rival that no solution beats by more than the margin.

    Rivals are compared on the rows that both answered. That all of them are sufficient is shown for
    all at once, so that the same rows may choose among them.
    """
    behind = {c.name: max(_lead(evidence, other, c) for other in solutions) for c in sufficient}
    near = [c for c in sufficient if behind[c.name] <= margin + ROUNDING]
    near = near or [min(sufficient, key=lambda c: behind[c.name])]
    return min(near, key=lambda c: c.rival.cost if c.rival else 0)


def _lead(evidence: Evidence, other: Contest, contest: Contest) -> float:
    """Return how much better ``other`` is on the rows that both rivals answered."""
    means = mean_on_shared_rows(evidence, contest.measured, other.measured)
    return contest.sign * (means[1] - means[0]) if means else 0.0


def mean_on_shared_rows(
    evidence: Evidence, first: Measured, second: Measured
) -> tuple[float, float] | None:
    """Return the means of two models on the rows that both answered; None if there are none."""
    pairs = read_pairs(evidence.folder, first, second, evidence.metrics)
    if not len(pairs):
        return None
    columns = (pairs.rival_values, pairs.tuned_values)
    one, other = (mean_interval(v, pairs.weights, resamples=100).value for v in columns)
    return one, other


def level_of_proof(contests: int, confidence: float) -> float:
    """Return the level of the intervals by which Holm's procedure tests that many contests.

    Only the upper bound counts, and half of the error is left to the procedure.
    """
    return 1 - (1 - confidence) / contests


def comparisons_to_json(contests: Sequence[Contest]) -> dict[str, JSON]:
    """Return all comparisons by model, with p-values that Holm adjusted."""
    adjusted = adjust_p_values([contest.comparison.p_value for contest in contests])
    return {
        contest.name: {**contest.to_json(), "p_value_holm": p_value}
        for contest, p_value in zip(contests, adjusted, strict=True)
    }
