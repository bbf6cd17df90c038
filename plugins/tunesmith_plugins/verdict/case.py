"""A run to be judged: its measurements by the deciding metric, and what the rule says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tunesmith.events import Measured
from tunesmith.plan import Evidence
from tunesmith_plugins.verdict.contests import Contest, level_of_proof, rank_on_dev
from tunesmith_plugins.verdict.gaps import Gap, find_gaps
from tunesmith_plugins.verdict.offer import VerdictOptions
from tunesmith_plugins.verdict.text import Numbers

FIX_DATA = "FIX DATA FIRST"
NOTHING = "NOTHING WORKS YET"
FINE_TUNE = "FINE-TUNE"
PROMPT = "PROMPT"
CLASSIFIER = "SMALL CLASSIFIER"
NO_EVIDENCE = "NOT ENOUGH EVIDENCE"


@dataclass(frozen=True)
class Ruling:
    """The sentence of the rule that is true, with what it says about this run."""

    word: str
    rule: str
    sentence: str
    would_change: str
    contest: Contest | None = None
    """The contest that the ruling is about; None: that with the strongest rival."""
    names_gaps: bool = False
    """True if the sentence says what was not measured."""


@dataclass(frozen=True)
class Case:
    """The measurements of a run by its deciding metric, and the contests with its rivals."""

    evidence: Evidence
    options: VerdictOptions
    tuned: Measured
    numbers: Numbers
    contests: Sequence[Contest]
    """All of them, with those of the technique's stages."""

    @property
    def rivals(self) -> list[Contest]:
        """The contests with what could be used in place of the tuned model."""
        return [contest for contest in self.contests if contest.rival is not None]

    @property
    def solutions(self) -> list[Contest]:
        """The rivals that solve the task: not those that give one answer to everything."""
        return [contest for contest in self.rivals if not contest.is_trivial]

    @cached_property
    def gaps(self) -> list[Gap]:
        """The baselines that were not measured, or not fully."""
        return find_gaps(self.evidence, self.rivals)

    @property
    def minimum(self) -> float | None:
        """The value that a model must reach to be used, if the gate names one."""
        bounds = [
            bound
            for _, evaluator, metric, bound in self.evidence.plan.gate.bounds()
            if metric == self.tuned.metric and evaluator in ("", self.tuned.evaluator)
        ]
        return bounds[-1] if bounds else None

    def reaches_minimum(self, contest: Contest) -> bool:
        """Return True if a rival is good enough to be used."""
        minimum = self.minimum
        return minimum is None or contest.sign * (contest.measured.value - minimum) >= 0

    @property
    def is_rated(self) -> bool:
        """True if a model without errors scores 1, and one without anything right 0."""
        return self.numbers.is_share and self.tuned.higher_is_better

    def proof(self, contest: Contest) -> float:
        """Return the level at which a rival is proven to be enough before any other is."""
        is_first = contest.name in (c.name for c in rank_on_dev(self.solutions)[:1])
        count = 1 if is_first else max(1, len(self.solutions))
        return level_of_proof(count, self.options.confidence)
