"""Compute the peak memory of a run, and check if it fits into a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.estimates import Estimate

Fit = Literal["yes", "maybe", "no"]


@dataclass(frozen=True)
class MemoryPeak:
    """The peak memory over all phases, in bytes, and the phase that is expected to reach it."""

    low: int
    expected: int
    high: int
    phase: str

    def to_json(self) -> dict[str, int]:
        return {"low": self.low, "expected": self.expected, "high": self.high}

    def scaled(self, factor: float) -> MemoryPeak:
        """Return the interval multiplied by ``factor``."""
        low, expected, high = (int(s * factor) for s in (self.low, self.expected, self.high))
        return MemoryPeak(low, expected, high, self.phase)


AFTER_RUN_PHASE = "merge"
"""Phase that is not part of a run: ``tunesmith merge`` may be used after it."""


def compute_peak(estimate: Estimate) -> MemoryPeak:
    """Compute the peak of a run over all its phases."""
    phases = {name: m for name, m in estimate.memory.items() if name != AFTER_RUN_PHASE}
    phases = phases or dict(estimate.memory)
    binding = max(phases, key=lambda name: phases[name].expected)
    return MemoryPeak(
        low=max(memory.low for memory in phases.values()),
        expected=phases[binding].expected,
        high=max(memory.high for memory in phases.values()),
        phase=binding,
    )


def check_fit(peak: MemoryPeak, smallest: int, largest: int | None = None) -> Fit:
    """Compare a peak with the memory of a device, or of a class of devices, in bytes.

    "yes": the high estimate fits into the smallest device. "no": the low estimate does not fit
    into the largest one. Otherwise "maybe".
    """
    if peak.high <= smallest:
        return "yes"
    return "no" if peak.low > (largest or smallest) else "maybe"
