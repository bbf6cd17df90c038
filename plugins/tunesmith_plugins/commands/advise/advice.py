"""The advice: the expected score after all training rows, against the rivals, and the costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.events import Measured
from tunesmith_evidence.formats import format_duration, format_estimate, format_rate
from tunesmith_evidence.ladder import Rung
from tunesmith_evidence.learning_curve import Extrapolation, extrapolate, resample
from tunesmith_plugins.commands.advise.offer import AdviseOptions

WORDS = {"prompt": "PROMPT", "classifier": "SMALL CLASSIFIER"}
RETRAININGS = {"never": 0, "monthly": 1, "weekly": 4.35, "daily": 30.4}
"""Trainings a month."""


@dataclass(frozen=True)
class Probe:
    """The technique after a number of training rows."""

    rows: int
    measured: Measured
    values: Mapping[int, float]
    training_seconds: float


@dataclass(frozen=True)
class Difference:
    """The expected advantage of tuning over a rival, with its 95 % interval."""

    rung: Rung
    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The advantage with its interval."""
        return format_estimate(self.value, self.low, self.high, signed=True)


def extrapolate_probes(
    probes: Sequence[Probe], rows: int, trivial: Measured | None = None
) -> Extrapolation:
    """Predict the mean error of the technique after ``rows`` training rows.

    ``trivial``: one answer to everything. A probe that is no better has not begun to learn the
    task: how fast the errors fall later is not in its score.
    """
    first = probes[0].measured
    if first.higher_is_better and first.unit:
        return Extrapolation(rows, reason=f"{first.metric} has no known best value")
    sign, floor = (1, 0.0) if first.higher_is_better else (-1, math.inf)
    floor = floor if trivial is None else trivial.value
    early = [f"{p.rows:,}" for p in probes if sign * p.measured.value <= sign * floor]
    if early:
        what = trivial.model if trivial else "a model that gets nothing right"
        reason = f"after {' and '.join(early)} rows it is no better than {what}"
        return Extrapolation(rows, reason=reason)
    errors = [[_error(first, p.values[row]) for row in sorted(p.values)] for p in probes]
    return extrapolate([probe.rows for probe in probes], errors, rows)


def to_score(measured: Measured, error: float) -> float:
    """Return the score of an error."""
    return 1 - error if measured.higher_is_better else error


def compare(
    rung: Rung, values: Mapping[int, float], expected: Extrapolation, tuned: Probe
) -> Difference | None:
    """Compare a rival with what is expected of tuning; None if it was measured on other rows.

    Without an extrapolation the largest probe is compared.
    """
    rows = sorted(tuned.values)
    if sorted(values) != rows:
        return None
    measured = tuned.measured
    sign = 1 if measured.higher_is_better else -1
    rival = np.array([values[row] for row in rows])
    mine = np.array([tuned.values[row] for row in rows])
    chosen = resample(len(rows))
    rivals = rival[chosen].mean(axis=1)
    if expected.reason:
        value, scores = float(mine.mean()), mine[chosen].mean(axis=1)
    else:
        value = to_score(measured, expected.error)
        scores = np.array([to_score(measured, error) for error in expected.resampled])
    low, high = np.quantile(sign * (scores - rivals), [0.025, 0.975])
    return Difference(rung, sign * (value - float(rival.mean())), float(low), float(high))


def decide(differences: Sequence[Difference], margin: float, extrapolated: bool) -> tuple[str, str]:
    """Return the word of the advice, and a sentence."""
    if not differences:
        return "NOT ENOUGH EVIDENCE", "no rival was measured on the same held-out rows"
    worst = min(differences, key=lambda d: d.value)
    name = worst.rung.chosen.rival
    what = "expected after all rows" if extrapolated else "measured on the largest probe"
    numbers = f"difference {what} {worst.text}"
    if worst.value >= margin and min(d.low for d in differences) > 0:
        return "FINE-TUNE", f"tuning beats every rival; the strongest is {name}, {numbers}"
    # More rows may still help where nothing could be extrapolated: then no rival is enough.
    enough = [d for d in differences if d.high < margin and extrapolated]
    if enough:
        cheapest = min(enough, key=lambda d: d.rung.chosen.cost)
        return WORDS[cheapest.rung.chosen.solution], (
            f"{cheapest.rung.chosen.rival} is enough: difference {what} {cheapest.text}, "
            f"the margin is {format_rate(margin)}"
        )
    return "NOT ENOUGH EVIDENCE", f"no clear advantage over {name}, {numbers}"


@dataclass(frozen=True)
class Costs:
    """Seconds and prices, on the machine that measured. Prices are None without a price."""

    rival_seconds: float
    """Seconds of a request, answered with all the others of the held-out rows."""
    tuned_seconds: float
    training_seconds: float
    """Expected for all training rows."""
    price_per_hour: float | None

    def per_thousand(self, seconds: float) -> float | None:
        """Return the price of a thousand requests."""
        return None if self.price_per_hour is None else seconds * 1000 / 3600 * self.price_per_hour

    @property
    def break_even(self) -> int | None:
        """The requests after which the training has paid for itself in time of the machine."""
        saved = self.rival_seconds - self.tuned_seconds
        return None if saved <= 0 else int(-(-self.training_seconds // saved))


def compute_costs(
    strongest: Rung, probes: Sequence[Probe], rows: int, price: float | None
) -> Costs:
    """Compute the costs of the strongest rival and of tuning."""
    largest = probes[-1]
    rival = strongest.measured
    return Costs(
        rival.seconds / rival.n if rival else 0.0,
        largest.measured.seconds / largest.measured.n,
        largest.training_seconds * rows / largest.rows,
        price,
    )


def list_arguments(options: AdviseOptions, costs: Costs) -> list[tuple[str, str]]:
    """Return what argues ``for tuning`` and what ``against tuning``, with the reason."""
    rival, tuning = "against tuning", "for tuning"
    arguments = []
    if options.knowledge_changes != "never":
        times = RETRAININGS[options.knowledge_changes]
        time = format_duration(times * costs.training_seconds)
        why = f"knowledge changes {options.knowledge_changes}: {time} of training a month"
        arguments.append((rival, why))
    if options.variety == "wide":
        why = "inputs vary widely: no training row shows some of their kinds"
        arguments.append((rival, why))
    limit = options.latency_limit
    if limit is not None and (costs.rival_seconds > limit) != (costs.tuned_seconds > limit):
        side = tuning if costs.rival_seconds > limit else rival
        model = "the tuned model" if side == tuning else "the rival"
        arguments.append((side, f"only {model} answers within {format_duration(limit)}"))
    even = costs.break_even
    if options.volume is not None:
        if even is None:
            why = "requests to the rival take no more time: the training is never paid back"
            arguments.append((rival, why))
        elif options.volume >= even:
            arguments.append((tuning, f"paid back within a month, after {even:,} requests"))
        else:
            arguments.append((rival, f"paid back after {even:,} requests only"))
    return arguments


def _error(measured: Measured, value: float) -> float:
    return 1 - value if measured.higher_is_better else value
