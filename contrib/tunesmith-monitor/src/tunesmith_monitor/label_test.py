"""Test if audited answers became wrong more often, with an e-detector.

Each audited answer has a value x from 0 (wrong) to 1 (right). The null hypothesis is that its
expectation, given the past, is at least ``floor``. The expectation of ``1 + bet * (floor - x)`` is
then at most 1. The Shiryaev-Roberts statistic ``M = (M + 1) * (1 + bet * (floor - x))`` is an
e-detector: an alarm at ``M >= L`` has an expected run length of at least L (Shin, Ramdas and
Rinaldo 2024, *E-detectors*, section 3). The mean over several bets is an e-detector, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BETS = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
"""Bets as shares of the largest possible one."""


@dataclass
class LabelTest:
    """A sequential test of audited answers; ``evidence_by_bet`` has a value for each bet."""

    floor: float
    """Smallest share of right answers that raises no alarm."""
    run_length: float
    """Expected number of labels until a false alarm, at least."""
    evidence_by_bet: Array

    @classmethod
    def start(cls, floor: float, run_length: float) -> LabelTest:
        """Return the test before the first label."""
        return cls(min(max(floor, 0.0), 0.99), run_length, np.zeros(len(BETS)))

    def add(self, value: float) -> bool:
        """Add the value of an answer; return True for an alarm, after which the test starts again.

        Args:
            value: from 0 (wrong) to 1 (right).
        """
        bets_K = BETS / (1 - self.floor)
        self.evidence_by_bet = (self.evidence_by_bet + 1) * (1 + bets_K * (self.floor - value))
        if self.evidence < self.run_length:
            return False
        self.evidence_by_bet = np.zeros(len(BETS))
        return True

    @property
    def evidence(self) -> float:
        """The e-detector: an alarm is raised when it reaches the run length."""
        return float(self.evidence_by_bet.mean())
