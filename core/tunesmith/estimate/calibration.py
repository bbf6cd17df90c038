"""What earlier runs on this device took, against what was foretold: the next prediction learns.

One line for each training that ended, in ``calibration.jsonl`` of the user's state directory.
Nothing in it says what was trained on, it never leaves the machine, and ``TUNESMITH_CALIBRATION=0``
turns reading and writing off.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from tunesmith.contracts import Estimate, Memory
from tunesmith.estimate.hardware import Range
from tunesmith.estimate.memory_peak import peak_of
from tunesmith.machine import Device

SWITCH = "TUNESMITH_CALIBRATION"
REMEMBERED = 50
"""Newest runs that count; drivers and libraries change."""
OWN = 3
"""Runs of the same technique that are enough to ignore those of others."""
NARROWEST = 0.3
"""Share of the interval's width that stays, however many runs agree."""
SAME_MEMORY, SAME_STEP = 2.0, 8.0
"""Factors within which runs are alike, in memory expected and in operations of a step.

What libraries take, and what a step waits for, says nothing about a run of another size.
"""
PLAUSIBLE = 4.0
"""Factor beyond which a prediction was not wrong but about something else."""
MARGIN = 0.02
"""What stays between what was seen and the ends of the interval, as a share."""
SHORTEST = 1.0
"""Seconds of training below which a pace says nothing."""
_SIGMA = 1.4826
"""Median absolute deviations in a standard deviation of a normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One training that ended: predicted and actual."""

    time: str
    device: str
    technique: str
    method: str
    expected: int
    """Bytes, before any calibration."""
    peak: int
    """Bytes that it took."""
    flops: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class Correction:
    """How predictions of memory turned out: actual over expected."""

    ratio: float
    """The median."""
    lowest: float
    highest: float
    """Without those that are far from all others."""
    runs: int

    def applied(self, memory: Memory) -> Memory:
        """The interval moved by the median ratio, narrowed by how many runs there were.

        It never excludes what was seen.
        """
        width = max(NARROWEST, 1 / math.sqrt(self.runs)) * self.ratio
        middle = memory.expected * self.ratio
        low = middle - width * (memory.expected - memory.low)
        high = middle + width * (memory.high - memory.expected)
        components = {name: int(size * self.ratio) for name, size in memory.components.items()}
        if components:
            largest = max(components, key=lambda name: components[name])
            components[largest] += int(middle) - sum(components.values())
        return Memory(
            low=max(0, int(min(low, memory.expected * self.lowest * (1 - MARGIN)))),
            expected=int(middle),
            high=math.ceil(max(high, memory.expected * self.highest * (1 + MARGIN))),
            components=components,
        )


@dataclass(frozen=True)
class Calibration:
    """The runs that count for one device."""

    runs: tuple[Seen, ...] = ()

    def memory(self, technique: str, method: str, expected: int) -> Correction | None:
        """The correction for predictions of such a size; None where nothing alike was seen."""
        alike = [
            run
            for run in self.runs
            if run.method == method
            and _near(run.expected, expected, SAME_MEMORY)
            and _near(run.peak, run.expected, PLAUSIBLE)
        ]
        ratios = _kept([run.peak / run.expected for run in _own(alike, technique)])
        if not ratios:
            return None
        return Correction(median(ratios), min(ratios), max(ratios), len(ratios))

    def throughput(self, technique: str, estimate: Estimate) -> Range | None:
        """Floating-point operations a second that trainings with such steps reached.

        Operations are those that were foretold in the same way, so that an error of the account
        cancels out. None where nothing alike was seen.
        """
        step = estimate.flops / max(1, estimate.steps)
        timed = [
            run
            for run in self.runs
            if run.method == estimate.method
            and run.seconds >= SHORTEST
            and run.steps > 0
            and _near(run.flops / run.steps, step, SAME_STEP)
        ]
        paces = _kept([run.flops / run.seconds for run in _own(timed, technique)])
        if not paces:
            return None
        middle, unsure = median(paces), max(0.1, 0.5 / math.sqrt(len(paces)))
        return min(middle * (1 - unsure), min(paces)), max(middle * (1 + unsure), max(paces))

    def correction(self, estimate: Estimate, technique: str) -> Correction | None:
        """What earlier runs say about the memory of an estimate."""
        return self.memory(technique, estimate.method, peak_of(estimate).expected)

    def applied(self, estimate: Estimate, technique: str) -> Estimate:
        """The estimate as earlier runs correct it."""
        correction = self.correction(estimate, technique)
        if correction is None:
            return estimate
        memory = {phase: correction.applied(m) for phase, m in estimate.memory.items()}
        return replace(estimate, memory=memory)


def read(device: Device, environment: Mapping[str, str] | None = None) -> Calibration:
    """What is known of a device. A file that cannot be read is as good as none."""
    variables = os.environ if environment is None else environment
    if not enabled(variables):
        return Calibration()
    try:
        lines = file(variables).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return Calibration()
    runs = [run for run in map(_seen, lines) if run is not None and run.device == identity(device)]
    return Calibration(tuple(runs[-REMEMBERED:]))


def append(seen: Seen, environment: Mapping[str, str] | None = None) -> bool:
    """Remember a run; whether that could be done. A run never fails for it."""
    variables = os.environ if environment is None else environment
    if not enabled(variables):
        return False
    path = file(variables)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(seen)) + "\n")
    except OSError:
        return False
    return True


def identity(device: Device) -> str:
    """What makes a device the same: its name and how much of it may be used."""
    return f"{device.name}, {device.cores} cores" if device.cores else device.name


def enabled(environment: Mapping[str, str]) -> bool:
    """Whether runs are remembered."""
    return environment.get(SWITCH, "").strip().lower() not in ("0", "off", "no", "false")


def file(environment: Mapping[str, str]) -> Path:
    """``calibration.jsonl`` below ``$XDG_STATE_HOME/tunesmith`` or ``~/.local/state/tunesmith``."""
    home = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "tunesmith" / "calibration.jsonl"


def _seen(line: str) -> Seen | None:
    """One line; None where it is damaged or from another version."""
    try:
        value: Any = json.loads(line)
        known = {field.name for field in fields(Seen)}
        seen = Seen(**{key: item for key, item in value.items() if key in known})
        return seen if min(seen.expected, seen.peak) > 0 and seen.seconds >= 0 else None
    except (ValueError, TypeError, AttributeError):
        return None


def _near(one: float, other: float, factor: float) -> bool:
    return one > 0 and other > 0 and 1 / factor <= one / other <= factor


def _own(runs: Sequence[Seen], technique: str) -> Sequence[Seen]:
    """Runs of the technique where there are enough of them, otherwise all."""
    own = [run for run in runs if run.technique == technique]
    return own if len(own) >= OWN else runs


def _kept(values: list[float]) -> list[float]:
    """The values without those far from all others: something else was going on then."""
    if not values:
        return []
    middle = median(values)
    spread = _SIGMA * median(abs(value - middle) for value in values)
    return [value for value in values if abs(value - middle) <= max(0.5 * middle, 4 * spread)]
