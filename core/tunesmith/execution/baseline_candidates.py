"""The state of the choice between a baseline's variants, and the time budget they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tunesmith.contracts import Baseline, BaselineVariant
from tunesmith.events import JSON
from tunesmith.offers import BaselineOffer
from tunesmith.plan import Component
from tunesmith.statistics import mean_interval
from tunesmith.text import format_count


@dataclass
class TriedVariant:
    """A variant and its scores so far."""

    variant: BaselineVariant
    place: int
    values: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    rows: int = 0
    seconds: float = 0.0
    reason: str = ""
    """Why the variant is no longer compared, or why it was not chosen."""

    @property
    def score(self) -> float:
        return mean_interval(self.values, self.weights, resamples=100).value

    def stop(self, reason: str) -> None:
        """Record why the variant is not compared on further rows."""
        self.reason = f"after {format_count(self.rows, 'row')}: {reason}"

    def to_json(self) -> JSON:
        """Return the variant as it appears in the event about the choice."""
        scored = {"score": self.score, "rows": self.rows, "seconds": self.seconds}
        return {"name": self.variant.name, **scored, "reason": self.reason}


@dataclass
class BaselineCandidate:
    """A baseline whose variant is being chosen."""

    baseline: Component[BaselineOffer[Any]]
    built: Baseline | None = None
    count: int = 0
    """Number of variants that the baseline yields."""
    untried: list[tuple[int, BaselineVariant]] = field(default_factory=list)
    tried: list[TriedVariant] = field(default_factory=list)
    left: list[TriedVariant] = field(default_factory=list)
    """The tried variants that are still being compared."""
    not_tried: list[JSON] = field(default_factory=list)
    omitted: list[JSON] = field(default_factory=list)
    """The variants that the baseline itself omits."""
    seconds: float = 0.0
    unscored: BaselineVariant | None = None
    """The first variant, chosen if no variant can be measured."""

    @property
    def offer(self) -> BaselineOffer[Any]:
        return self.baseline.offer

    @property
    def is_fresh(self) -> bool:
        return not (self.tried or self.not_tried)

    def reject(self, reason: str, variant: BaselineVariant | None = None) -> None:
        """Record why a variant was not compared; its name is unknown if it could not be built.

        A variant that failed only on further rows keeps its score so far.
        """
        scores = ({"score": o.score, "rows": o.rows} for o in self.tried if o.variant is variant)
        name = variant.name if variant else ""
        self.not_tried.append({"name": name, "reason": reason, **next(scores, {})})

    def give_up(self, reason: str) -> None:
        """Record the reason why the variants that are left were not tried, and exclude them."""
        for _, variant in self.untried:
            self.reject(reason, variant)
        self.untried.clear()

    def rank(self, sign: int) -> list[TriedVariant]:
        """Return the remaining variants, best first; ties keep their order."""
        return sorted(self.left, key=lambda one: -sign * one.score)

    def promise(self, sign: int) -> float:
        """Return the best score so far, with the sign that makes larger better."""
        return max((sign * one.score for one in self.tried), default=float("-inf"))


@dataclass
class TimeBudget:
    """The time budget in seconds that costly baselines share."""

    left: float

    def covers(self, seconds: float) -> bool:
        return self.left > 0 and seconds <= self.left
