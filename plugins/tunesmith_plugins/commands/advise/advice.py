"""Decide the advice from the expected score of the full training, the baselines and the costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.events import BaselineChosen, Measured
from tunesmith.text import format_duration
from tunesmith_evidence.baselines import MeasuredBaseline
from tunesmith_evidence.number_text import format_estimate, format_rate
from tunesmith_evidence.pilots import RowValue
from tunesmith_evidence.statistics import paired_difference
from tunesmith_plugins.commands.advise.learning_curve import (
    Extrapolation,
    average_resamples,
    extrapolate,
)
from tunesmith_plugins.commands.advise.offer import AdviseOptions

ADVICE_WORDS = {"prompt": "PROMPT", "retrieval": "PROMPT", "classifier": "SMALL CLASSIFIER"}
RETRAININGS_PER_MONTH = {"never": 0, "monthly": 1, "weekly": 4.35, "daily": 30.4}
"""Training runs per month, by how often the right answers change."""


@dataclass(frozen=True)
class Pilot:
    """The technique's test scores after training on a sample of the rows."""

    rows: int
    measured: Measured
    values: Mapping[int, RowValue]
    training_seconds: float


@dataclass(frozen=True)
class ExpectedDifference:
    """The expected advantage of tuning over a baseline, with its 95 % confidence interval."""

    baseline: MeasuredBaseline
    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The advantage and its interval, such as ``+0.120 [+0.050, +0.190]``."""
        return format_estimate(self.value, self.low, self.high, signed=True)


def extrapolate_pilots(
    pilots: Sequence[Pilot], rows: int, trivial: Measured | None = None
) -> Extrapolation:
    """Predict the mean error of the technique after ``rows`` training rows.

    Do not extrapolate if a pilot is no better than ``trivial``, the majority-class baseline. Its
    model has not started to learn, so its score does not show how fast the errors will fall.
    """
    first = pilots[0].measured
    if first.higher_is_better and first.unit:
        return Extrapolation(rows, reason=f"{first.metric} has no known best value")
    sign, floor = (1, 0.0) if first.higher_is_better else (-1, math.inf)
    floor = floor if trivial is None else trivial.value
    early = [f"{p.rows:,}" for p in pilots if sign * p.measured.value <= sign * floor]
    if early:
        what = trivial.model if trivial else "a model that gets nothing right"
        reason = f"after {' and '.join(early)} training rows, the model is no better than {what}"
        return Extrapolation(rows, reason=reason)
    _, weights, groups = _columns(pilots[0].values)
    errors = [[_error(first, value) for value in _columns(p.values)[0]] for p in pilots]
    return extrapolate([pilot.rows for pilot in pilots], errors, rows, weights, groups)


def error_to_score(measured: Measured, error: float) -> float:
    """Return the score that corresponds to an error."""
    return 1 - error if measured.higher_is_better else error


def compare_with_baseline(
    baseline: MeasuredBaseline,
    values: Mapping[int, RowValue],
    expected: Extrapolation,
    tuned: Pilot,
) -> ExpectedDifference | None:
    """Compare the expected score of tuning with a baseline; return None if the test rows differ.

    Without an extrapolation, compare the largest pilot. Otherwise, each end of the interval is the
    wider of two ends. One is the percentile of the resampled extrapolations, and the other has the
    distance from the estimate that it has in the paired comparison with the largest pilot. An
    extrapolation cannot be more certain than a measurement on the same rows. The paired comparison
    also covers a baseline that is right on all of a few rows: its resamples are all equal, but its
    score interval stays wide.
    """
    if values.keys() != tuned.values.keys():
        return None
    measured = tuned.measured
    sign = 1 if measured.higher_is_better else -1
    mine, weights, groups = _columns(tuned.values)
    theirs, _, _ = _columns(values)
    found = paired_difference(theirs, mine, weights, groups=groups, bounds=measured.bounds)
    value = sign * found.value
    low, high = sorted((sign * found.low, sign * found.high))
    if not expected.reason:
        scores = [error_to_score(measured, e) for e in (expected.error, *expected.resampled)]
        gains = sign * (np.array(scores) - average_resamples(theirs, weights, groups))
        lowest, highest = np.quantile(gains[1:], [0.025, 0.975])
        low, high = min(gains[0] + low - value, lowest), max(gains[0] + high - value, highest)
        value = gains[0]
    return ExpectedDifference(baseline, float(value), float(low), float(high))


def list_missing(baselines: Collection[BaselineChosen], compared: Container[str]) -> list[str]:
    """Return the baselines that tuning was not compared with, and the reason for each.

    A baseline that the run file excludes is ignored if another one of its kind was compared.
    """
    kinds = {chosen.solution for chosen in baselines if chosen.baseline in compared}
    return [
        f"{chosen.baseline}: {chosen.skipped or 'not measured on the same test rows'}"
        for chosen in baselines
        if chosen.baseline not in compared and not (chosen.excluded and chosen.solution in kinds)
    ]


def decide_advice(
    differences: Sequence[ExpectedDifference],
    margin: float,
    extrapolated: bool,
    skipped: Sequence[str] = (),
) -> tuple[str, str]:
    """Return the advice, such as ``FINE-TUNE``, and the sentence that explains it.

    Tuning must beat the majority-class baseline, and so must a baseline that is accepted as
    sufficient. ``skipped`` lists the baselines that were not measured, with the reasons.
    """
    missing = f"; not measured: {'; '.join(skipped)}" if skipped else ""
    solutions = [d for d in differences if d.baseline.chosen.solution != "constant"]
    if not solutions:
        text = "no baseline was measured on the same test rows"
        return "NOT ENOUGH EVIDENCE", f"{text}{missing}"
    worst = min(differences, key=lambda d: d.value)
    name = worst.baseline.chosen.baseline
    what = (
        "expected after training on all rows" if extrapolated else "measured on the largest pilot"
    )
    numbers = f"difference {what} {worst.text}"
    # Same condition as in the verdict: the margin over the strongest baseline, and a clear
    # advantage over all of them, because few rows may not show which one is strongest.
    if worst.value >= margin and min(d.low for d in differences) > 0:
        if skipped:
            return (
                "NOT ENOUGH EVIDENCE",
                f"tuning beats every model that was measured, {numbers}{missing}",
            )
        return "FINE-TUNE", f"tuning beats every baseline; the strongest is {name}, {numbers}"
    # Without an extrapolation, more rows may still help, so no baseline is sufficient. A cheap
    # baseline that is much worse than the best one is not sufficient either.
    constant = min((d.value for d in differences if d not in solutions), default=math.inf)
    limit = min(worst.value + margin, math.nextafter(constant, -math.inf))
    enough = [d for d in solutions if extrapolated and d.high < margin and d.value <= limit]
    if enough:
        cheapest = min(enough, key=lambda d: d.baseline.chosen.cost)
        return ADVICE_WORDS[cheapest.baseline.chosen.solution], (
            f"{cheapest.baseline.chosen.baseline} is enough: difference {what} {cheapest.text}, "
            f"the margin is {format_rate(margin)}{missing}"
        )
    return "NOT ENOUGH EVIDENCE", f"no clear advantage over {name}, {numbers}{missing}"


@dataclass(frozen=True)
class Costs:
    """Times in seconds on this machine, and its hourly price (None if no price is set)."""

    baseline_seconds: float
    """Seconds per request when all test rows are answered in batches."""
    tuned_seconds: float
    training_seconds: float
    """Expected seconds to train on all rows."""
    price_per_hour: float | None

    def per_thousand(self, seconds: float) -> float | None:
        """Return the price of a thousand requests, in the currency of ``price_per_hour``."""
        return None if self.price_per_hour is None else seconds * 1000 / 3600 * self.price_per_hour

    @property
    def break_even(self) -> int | None:
        """The number of requests after which the saved machine time equals the training time."""
        saved = self.baseline_seconds - self.tuned_seconds
        return None if saved <= 0 else int(-(-self.training_seconds // saved))


def compute_costs(
    strongest: MeasuredBaseline, pilots: Sequence[Pilot], rows: int, price: float | None
) -> Costs:
    """Compute the costs of the strongest baseline and of tuning."""
    largest = pilots[-1]
    baseline = strongest.measured
    return Costs(
        baseline.seconds / baseline.n if baseline else 0.0,
        largest.measured.seconds / largest.measured.n,
        largest.training_seconds * rows / largest.rows,
        price,
    )


def list_arguments(options: AdviseOptions, costs: Costs) -> list[tuple[str, str]]:
    """Return the arguments ``for tuning`` or ``against tuning``, with the reason for each."""
    baseline, tuning = "against tuning", "for tuning"
    arguments = []
    if options.knowledge_changes != "never":
        times = RETRAININGS_PER_MONTH[options.knowledge_changes]
        time = format_duration(times * costs.training_seconds)
        why = f"knowledge changes {options.knowledge_changes}: {time} of training per month"
        arguments.append((baseline, why))
    if options.variety == "wide":
        why = "inputs vary widely, and the training rows do not cover all kinds of input"
        arguments.append((baseline, why))
    limit = options.latency_limit
    if limit is not None and (costs.baseline_seconds > limit) != (costs.tuned_seconds > limit):
        side = tuning if costs.baseline_seconds > limit else baseline
        model = "the tuned model" if side == tuning else "the baseline"
        arguments.append((side, f"only {model} answers within {format_duration(limit)}"))
    even = costs.break_even
    if options.volume is not None:
        if even is None:
            why = "the tuned model is not faster than the baseline, so training never pays off"
            arguments.append((baseline, why))
        elif options.volume >= even:
            arguments.append((tuning, f"pays off within a month, after {even:,} requests"))
        else:
            arguments.append((baseline, f"pays off only after {even:,} requests"))
    return arguments


def _error(measured: Measured, value: float) -> float:
    return 1 - value if measured.higher_is_better else value


def _columns(
    values: Mapping[int, RowValue],
) -> tuple[list[float], list[float], list[str | None]]:
    """Return values, weights and groups, sorted by row number."""
    rows = [values[number] for number in sorted(values)]
    return [row.value for row in rows], [row.weight for row in rows], [row.group for row in rows]
