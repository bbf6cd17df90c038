"""Compute the peak memory of a run, and check whether it fits on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.estimates import Estimate
from tunesmith_torch.runtime.machine import Device

MemoryFit = Literal["yes", "maybe", "no"]


@dataclass(frozen=True)
class MemoryPeak:
    """The peak memory over all phases, in bytes, and the phase that should reach it."""

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


RANK_0_PHASE = "evaluate by rank 0"
"""Evaluation on a CPU after multi-process training, where rank 0 can use all of the memory."""


def get_process_memory(device: Device, processes: int) -> int | None:
    """Return the bytes that each process may use: its GPU's memory, or its share of main memory."""
    if device.memory is None or device.type == "cuda":
        return device.memory
    return device.memory // processes


def compute_peak(estimate: Estimate) -> MemoryPeak:
    """Compute the peak memory over all phases of a run, for each process."""
    phases = {name: m for name, m in estimate.memory.items() if name != RANK_0_PHASE}
    phases = phases or dict(estimate.memory)
    binding = max(phases, key=lambda name: phases[name].expected)
    return MemoryPeak(
        low=max(memory.low for memory in phases.values()),
        expected=phases[binding].expected,
        high=max(memory.high for memory in phases.values()),
        phase=binding,
    )


def check_fit(peak: MemoryPeak, smallest: int, largest: int | None = None) -> MemoryFit:
    """Compare a peak with the memory in bytes of a device or a class of devices.

    Return "yes" if the high estimate fits on the smallest device, "no" if even the low estimate
    does not fit on the largest one, and otherwise "maybe".
    """
    if peak.high <= smallest:
        return "yes"
    return "no" if peak.low > (largest or smallest) else "maybe"
