"""The most memory that a run takes, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.contracts import Estimate

Fit = Literal["yes", "maybe", "no"]


@dataclass(frozen=True)
class Peak:
    """The most memory over all phases, in bytes, and the phase that is likely to need it."""

    low: int
    expected: int
    high: int
    phase: str

    def to_json(self) -> dict[str, int]:
        return {"low": self.low, "expected": self.expected, "high": self.high}

    def times(self, factor: float) -> Peak:
        """The same interval, scaled."""
        low, expected, high = (int(s * factor) for s in (self.low, self.expected, self.high))
        return Peak(low, expected, high, self.phase)


AFTERWARDS = "merge"
"""The phase that is no part of a run: a command that may be given later."""


def peak_of(estimate: Estimate) -> Peak:
    """The peak of the whole run: a run has to get through every phase."""
    phases = {name: m for name, m in estimate.memory.items() if name != AFTERWARDS}
    phases = phases or dict(estimate.memory)
    binding = max(phases, key=lambda name: phases[name].expected)
    return Peak(
        low=max(memory.low for memory in phases.values()),
        expected=phases[binding].expected,
        high=max(memory.high for memory in phases.values()),
        phase=binding,
    )


def fit(peak: Peak, smallest: int, largest: int | None = None) -> Fit:
    """Whether it fits: into the smallest of its class for a yes, not even the largest for a no."""
    if peak.high <= smallest:
        return "yes"
    return "no" if peak.low > (largest or smallest) else "maybe"
