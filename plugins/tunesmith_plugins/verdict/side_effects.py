"""Compare the tuned model with its base outside the task, to find side effects of tuning.

A side effect is a *price* if the interval of the change lies on the worse side of zero and the
change is at least ``MIN_CHANGE``. Without the second condition, a tiny rise of the loss on general
texts, which almost every training causes, would count as a price.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunesmith.events import BASE, JSON, TUNED, Measured
from tunesmith.plan import Evidence
from tunesmith_evidence.number_text import format_number
from tunesmith_evidence.pairs import read_pairs
from tunesmith_plugins.verdict.paired_comparisons import PairedComparison

MIN_CHANGE = 0.05
"""Smallest change that counts as a price: a share, or nats per token."""
WEAK = 0.1
"""If the base model has a smaller share of right answers, there is little left to lose."""


@dataclass(frozen=True)
class SideEffect:
    """The change of one metric outside the task, from the base model to the tuned model."""

    tuned: Measured
    comparison: PairedComparison

    @property
    def is_price(self) -> bool:
        """True if the tuned model is clearly worse, by a relevant amount."""
        advantage = self.comparison.advantage()
        return self.comparison.comparison.outcome == "worse" and advantage.value <= -MIN_CHANGE

    @property
    def limit(self) -> str:
        """A limit of the measurement, such as the smallest detectable change, as text or ""."""
        base, _ = self.comparison.values
        if self.comparison.is_share and self.tuned.higher_is_better and base < WEAK:
            return f"the base model reaches only {format_number(base)}, too low to show a decline"
        detectable = self.comparison.comparison.detectable
        if not math.isfinite(detectable):
            return ""
        return f"a change below {format_number(max(detectable, MIN_CHANGE))} may go unnoticed"

    def describe(self) -> str:
        """Return the metric with both values, or the evaluator's own text about a price."""
        base, tuned = (format_number(value) for value in self.comparison.values)
        name, unit = self.tuned.metric.replace("-", " "), self.tuned.unit
        change = f"{name} {base} -> {tuned} {unit}".rstrip()
        text = self.tuned.details.get("text")
        return f"{change}: {text}" if self.is_price and isinstance(text, str) else change

    def to_json(self) -> JSON:
        """Return the side effect as JSON, as it appears in the verdict."""
        compared = self.comparison.to_json()
        kept = ("n", "units", "difference", "low", "high", "outcome", "detectable")
        return {
            "evaluator": self.tuned.evaluator,
            "metric": self.tuned.metric,
            "base": compared["value"],
            "tuned": compared["tuned"],
            **{key: compared[key] for key in kept},
            "is_price": self.is_price,
            "text": self.describe(),
            "limit": self.limit,
        }


def find_side_effects(evidence: Evidence, confidence: float) -> list[SideEffect]:
    """Return the changes of every metric that was measured on both the base and tuned model."""
    found = []
    for base, tuned in _find_pairs(evidence.measured):
        pairs = read_pairs(evidence.folder, base, tuned, evidence.metrics)
        if len(pairs):
            found.append(SideEffect(tuned, PairedComparison(base, None, pairs, confidence)))
    return sorted(found, key=lambda effect: bool(effect.tuned.unit))  # shares first


def describe_price(effects: Sequence[SideEffect]) -> str:
    """Return the side effects that are a price, as text.

    The result is an empty string if no side effect is.
    """
    return "; ".join(effect.describe() for effect in effects if effect.is_price)


def describe_absence(effects: Sequence[SideEffect]) -> str:
    """Return the changes of a run without a price as text, or "" if none was measured."""
    if not effects:
        return ""
    changes = ", ".join(effect.describe() for effect in effects)
    return "; ".join(filter(None, [f"none found: {changes}", effects[0].limit]))


def _find_pairs(measured: Sequence[Measured]) -> Iterator[tuple[Measured, Measured]]:
    events = {(event.model, event.evaluator, event.metric): event for event in measured}
    for (model, evaluator, metric), event in events.items():
        tuned = events.get((TUNED, evaluator, metric))
        if model == BASE and tuned is not None:
            yield event, tuned
