"""Compare two models in service with a test that is valid at any look.

Users are assigned to model B with a known probability ``share``, whatever happened before. An
outcome y from 0 to 1 of a new user gives the payoff::

    x = (y - center) * (1 / share if the user has B, else -1 / (1 - share))

``center`` is the mean of the outcomes before. Given the past, the expectation of x is the mean of B
minus the mean of A. If B is not better, the expectation of ``1 + bet * x`` is at most 1, and the
product over all users is an e-process. It ever exceeds ``1 / error`` with a probability of at most
``error`` (Ville's inequality; Ramdas et al. 2023, *Game-Theoretic Statistics and Safe
Anytime-Valid Inference*, section 2). The mean over several bets is an e-process, too. The same
payoffs with the opposite sign test if B is worse.

Only the first outcome of each user counts: later ones have a known assignment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Decision = Literal["better", "worse", "go on"]
BETS = np.geomspace(0.01, 0.9, 8)
"""Bets as shares of the largest possible one."""


@dataclass
class SequentialComparison:
    """The state of the comparison; the size of its memory is constant."""

    share: float = 0.5
    """Probability that a user is assigned to B."""
    error: float = 0.05
    """Largest probability of deciding *better* or *worse* if the models are equally good."""
    log_better: Array = field(default_factory=lambda: np.zeros(len(BETS)))
    log_worse: Array = field(default_factory=lambda: np.zeros(len(BETS)))
    counts: list[int] = field(default_factory=lambda: [0, 0])
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0])
    decision: Decision = "go on"

    def add(self, is_second: bool, outcome: float) -> Decision:
        """Add the first outcome of a user, from 0 to 1; return the decision, which is final.

        Args:
            is_second: True if model B answered.
            outcome: from 0 (bad) to 1 (good).
        """
        # Half an outcome of each kind before the first user keeps the center away from the ends.
        center = (0.5 + sum(self.totals)) / (1 + sum(self.counts))
        weight = 1 / self.share if is_second else -1 / (1 - self.share)
        payoffs_K = BETS * min(self.share, 1 - self.share) * (outcome - center) * weight
        self.log_better += np.log1p(payoffs_K)
        self.log_worse += np.log1p(-payoffs_K)
        self.counts[is_second] += 1
        self.totals[is_second] += outcome
        if self.decision == "go on":
            limit = 2 / self.error
            better, worse = self.evidence
            self.decision = "better" if better >= limit else "worse" if worse >= limit else "go on"
        return self.decision

    @property
    def evidence(self) -> tuple[float, float]:
        """The e-values for *better* and *worse*; a decision needs ``2 / error``."""
        return mean_evidence(self.log_better), mean_evidence(self.log_worse)

    @property
    def means(self) -> tuple[float, float]:
        """The mean outcomes of A and B; NaN before the first one."""
        first, second = (
            t / n if n else float("nan") for t, n in zip(self.totals, self.counts, strict=True)
        )
        return first, second


def mean_evidence(log_K: Array) -> float:
    """Return the mean of ``exp(log_K)`` over the bets, without overflow."""
    top = float(log_K.max())
    with np.errstate(over="ignore"):
        return float(np.exp(top) * np.exp(log_K - top).mean())
