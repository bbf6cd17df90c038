"""Define the case of a verdict (measurements and comparisons by one metric), and its ruling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tunesmith.events import Measured
from tunesmith.plan import Evidence
from tunesmith_plugins.verdict.gaps import Gap, find_gaps
from tunesmith_plugins.verdict.offer import VerdictOptions
from tunesmith_plugins.verdict.paired_comparisons import (
    PairedComparison,
    rank_on_validation,
    verification_level,
)
from tunesmith_plugins.verdict.text import MetricFormatter

FIX_DATA = "FIX DATA FIRST"
NOTHING_WORKS = "NOTHING WORKS YET"
FINE_TUNE = "FINE-TUNE"
PROMPT = "PROMPT"
CLASSIFIER = "SMALL CLASSIFIER"
NO_EVIDENCE = "NOT ENOUGH EVIDENCE"


@dataclass(frozen=True)
class Ruling:
    """The verdict for a run: the part of the rule that applies, with the numbers of the run."""

    word: str
    rule: str
    sentence: str
    would_change: str
    comparison: PairedComparison | None = None
    """The comparison behind the ruling, or None for the comparison with the strongest baseline."""
    names_gaps: bool = False
    """True if the sentence already lists the baselines that were not measured."""


@dataclass(frozen=True)
class VerdictCase:
    """A run's measurements by its deciding metric, and its comparisons with the baselines."""

    evidence: Evidence
    options: VerdictOptions
    tuned: Measured
    numbers: MetricFormatter
    comparisons: Sequence[PairedComparison]
    """All comparisons, including those with stages of the technique."""

    @property
    def baselines(self) -> list[PairedComparison]:
        """The comparisons with models that could replace the tuned model."""
        return [comparison for comparison in self.comparisons if comparison.baseline is not None]

    @property
    def solutions(self) -> list[PairedComparison]:
        """The comparisons with baselines that attempt the task: all except trivial baselines."""
        return [comparison for comparison in self.baselines if not comparison.is_trivial]

    @cached_property
    def gaps(self) -> list[Gap]:
        """Baselines that were not fully measured, which a FINE-TUNE verdict would need."""
        return find_gaps(self.evidence, self.baselines)

    @property
    def is_beyond_length(self) -> bool:
        """True if the tuned model prefers the chosen answers even at equal length."""
        return bool(self.tuned.details.get("beyond_length"))

    @property
    def minimum(self) -> float | None:
        """The score that a model must reach to be usable, or None if ``[gate]`` sets none."""
        bounds = [
            bound
            for _, evaluator, metric, bound in self.evidence.plan.gate.bounds()
            if metric == self.tuned.metric and evaluator in ("", self.tuned.evaluator)
        ]
        return bounds[-1] if bounds else None

    def reaches_minimum(self, comparison: PairedComparison) -> bool:
        """Return True if a baseline reaches the minimum in ``[gate]``, or if no minimum is set."""
        minimum = self.minimum
        return minimum is None or comparison.sign * (comparison.measured.value - minimum) >= 0

    @property
    def is_rated(self) -> bool:
        """True if a perfect model scores 1 and a model that is always wrong scores 0."""
        return self.numbers.is_share and self.tuned.higher_is_better

    def required_level(self, comparison: PairedComparison) -> float:
        """Return the confidence level required to call this baseline sufficient.

        The baseline that is strongest on the validation rows is tested first, at the uncorrected
        level. For all others, Holm's correction for the number of baselines raises the level.
        """
        is_first = comparison.name in (c.name for c in rank_on_validation(self.solutions)[:1])
        count = 1 if is_first else max(1, len(self.solutions))
        return verification_level(count, self.options.confidence)
