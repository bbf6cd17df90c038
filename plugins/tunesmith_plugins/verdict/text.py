"""Numbers of the verdict as text."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.events import Measured
from tunesmith_plugins.verdict.contests import Contest


@dataclass(frozen=True)
class Numbers:
    """Writes values of one metric."""

    label: str
    unit: str

    @property
    def is_share(self) -> bool:
        return not self.unit

    def plain(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.3g} {self.unit}".rstrip()

    def value(self, value: float) -> str:
        """Return a value after the name of the metric."""
        return f"{self.label} {self.plain(value)}"

    def interval(self, measured: Measured) -> str:
        """Return a measured value with its interval."""
        return f"{self.label} {measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}]"

    def compare(self, contest: Contest) -> str:
        """Return both values and their difference with its interval."""
        rival, tuned = contest.values
        difference = contest.comparison.difference
        confidence = "" if contest.confidence == 0.95 else f"{100 * contest.confidence:.3g} % "
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.label} {rival:.3f} -> {tuned:.3f}{unit} on {difference.n} held-out rows, "
            f"difference {difference.value:+.3f} "
            f"{confidence}[{difference.low:+.3f}, {difference.high:+.3f}]"
        )
