"""Calibrate predictions of memory and time using earlier runs on the same device.

Each completed training run adds a line to ``calibration.jsonl`` in the user's state directory, with
predicted and measured memory and time. The file contains nothing about the training data and never
leaves the machine. ``TUNESMITH_CALIBRATION=0`` turns off reading and writing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from tunesmith.estimates import Estimate, PhaseMemory
from tunesmith.machine import user_folder
from tunesmith_plugins.estimate.hardware import Range
from tunesmith_plugins.estimate.memory_peak import compute_peak
from tunesmith_torch.runtime.machine import Device

ENABLED_VARIABLE = "TUNESMITH_CALIBRATION"
MAX_ENTRIES = 50
"""Maximum number of runs used, newest first; older runs used other drivers and libraries."""
MIN_OWN_ENTRIES = 3
"""If there are this many runs of the same technique, ignore runs of other techniques."""
MIN_WIDTH = 0.3
"""Keep at least this share of the predicted interval's width, no matter how many runs agree."""
SIMILAR_MEMORY, SIMILAR_STEP = 2.0, 8.0
"""Largest factors between the predicted memory, and operations per step, of similar runs.

The memory of libraries and the overhead per step do not scale with the size of the run, so runs of
very different sizes are not comparable.
"""
SIMILAR_TIME = 8.0
"""Parts of runs are similar within this factor of their predicted seconds."""
MAX_ERROR_FACTOR = 4.0
"""Ignore runs whose prediction was off by more than this factor; it was for another run."""
MARGIN = 0.02
"""The corrected interval extends beyond the measured peaks by this share."""
MIN_SECONDS = 1.0
"""Ignore the throughput of training runs shorter than this many seconds."""
MIN_CPU_SHARE = 0.75
"""Other programs slowed down a training run if its share of CPU time is smaller than this."""
_SIGMA = 1.4826
"""Standard deviation of a normal distribution divided by its median absolute deviation."""


@dataclass(frozen=True, kw_only=True)
class CalibrationEntry:
    """The prediction and the measurement of one completed training run."""

    time: str
    device: str
    technique: str
    method: str
    expected: int
    """Predicted peak in bytes, before any calibration."""
    peak: int
    """Measured peak in bytes."""
    flops: float
    steps: int
    seconds: float
    compute_bytes: int = 0
    """Bytes per number in the compute format, which decides how fast a processor computes."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """Predicted seconds before calibration, and measured seconds, of the parts of the run."""
    cpu_share: float | None = None
    """CPU time of the training run, as a share of the time available to its threads.

    It is low if other programs used the processor, and None if unknown, as on a GPU.
    """


@dataclass(frozen=True)
class Correction:
    """The ratio of measured to predicted memory in similar runs, excluding outliers."""

    ratio: float
    """Measured divided by predicted memory, the median of the runs."""
    lowest: float
    highest: float
    runs: int

    def apply(self, memory: PhaseMemory) -> PhaseMemory:
        """Scale the interval by the median ratio, and narrow it as the number of runs grows.

        The resulting interval always includes the measured peaks.
        """
        width = max(MIN_WIDTH, 1 / math.sqrt(self.runs)) * self.ratio
        middle = memory.expected * self.ratio
        low = middle - width * (memory.expected - memory.low)
        high = middle + width * (memory.high - memory.expected)
        components = {name: int(size * self.ratio) for name, size in memory.components.items()}
        if components:
            # Rounding leaves a few bytes; they go to the largest component, so that the sum is
            # right.
            largest = max(components, key=lambda name: components[name])
            components[largest] += int(middle) - sum(components.values())
        return PhaseMemory(
            low=max(0, int(min(low, memory.expected * self.lowest * (1 - MARGIN)))),
            expected=int(middle),
            high=math.ceil(max(high, memory.expected * self.highest * (1 + MARGIN))),
            components=components,
        )


@dataclass(frozen=True)
class Calibration:
    """Predicted and measured memory of earlier runs on one device."""

    runs: tuple[CalibrationEntry, ...] = ()

    def memory_correction(self, technique: str, method: str, expected: int) -> Correction | None:
        """Return the correction for a predicted peak.

        The result is None if no similar run was recorded here.
        """
        similar = [
            run
            for run in self.runs
            if run.method == method
            and _is_within_factor(run.expected, expected, SIMILAR_MEMORY)
            and _is_within_factor(run.peak, run.expected, MAX_ERROR_FACTOR)
        ]
        ratios = _drop_outliers(
            [run.peak / run.expected for run in _prefer_same_technique(similar, technique)]
        )
        if not ratios:
            return None
        return Correction(median(ratios), min(ratios), max(ratios), len(ratios))

    def throughput(self, technique: str, estimate: Estimate) -> Range | None:
        """Return the range of operations per second reached by training runs with similar steps.

        If earlier runs counted operations by the same method, errors in the count cancel out, so
        others are only used if there are none. The same holds for runs that shared the processor
        with other programs. Return None if no similar run has finished on this device.
        """
        timed = [
            run
            for run in self.runs
            if run.seconds >= MIN_SECONDS and _has_similar_steps(run, estimate)
        ]
        timed = [run for run in timed if run.method == estimate.method] or timed
        chosen = _prefer_same_technique(_prefer_undisturbed(timed), technique)
        throughputs = _drop_outliers([run.flops / run.seconds for run in chosen])
        if not throughputs:
            return None
        middle, margin = median(throughputs), max(0.1, 0.5 / math.sqrt(len(throughputs)))
        low, high = middle * (1 - margin), middle * (1 + margin)
        return min(low, *throughputs), max(high, *throughputs)

    def correct_part(self, part: str, seconds: Range, estimate: Estimate) -> Range:
        """Return the predicted seconds of a part of a run, corrected by earlier runs here.

        For a tiny model, a part takes as long as its imports and files. That says nothing about the
        parts of a large one, even if their predictions are of similar length.
        """
        middle = math.sqrt(seconds[0] * seconds[1])
        similar = [
            run
            for run in self.runs
            if part in run.parts
            and _has_similar_steps(run, estimate)
            and _is_within_factor(run.parts[part][0], middle, SIMILAR_TIME)
        ]
        ratios = _drop_outliers(
            [run.parts[part][1] / run.parts[part][0] for run in _prefer_undisturbed(similar)]
        )
        if not ratios:
            return seconds
        margin = max(0.25, 0.5 / math.sqrt(len(ratios)))
        low, high = median(ratios) * (1 - margin), median(ratios) * (1 + margin)
        return middle * min(low, *ratios), middle * max(high, *ratios)

    def correction(self, estimate: Estimate, technique: str) -> Correction | None:
        """Return the correction of an estimate's memory.

        The result is None if no similar run was recorded here.
        """
        return self.memory_correction(technique, estimate.method, compute_peak(estimate).expected)

    def correct(self, estimate: Estimate, technique: str) -> Estimate:
        """Return the estimate, with its memory corrected by earlier runs."""
        correction = self.correction(estimate, technique)
        if correction is None:
            return estimate
        memory = {phase: correction.apply(m) for phase, m in estimate.memory.items()}
        return replace(estimate, memory=memory)


def read_calibration(device: Device, environment: Mapping[str, str] | None = None) -> Calibration:
    """Read the entries of a device. A file that cannot be read counts as empty."""
    variables = os.environ if environment is None else environment
    if not is_enabled(variables):
        return Calibration()
    try:
        lines = calibration_file(variables).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return Calibration()
    runs = [
        run
        for run in map(_parse_entry, lines)
        if run is not None and run.device == device_key(device)
    ]
    return Calibration(tuple(runs[-MAX_ENTRIES:]))


def append_entry(entry: CalibrationEntry, environment: Mapping[str, str] | None = None) -> bool:
    """Append an entry to the calibration file, and return True if it was written.

    Do not raise an error if the file cannot be written, because calibration must not fail a run.
    """
    variables = os.environ if environment is None else environment
    if not is_enabled(variables):
        return False
    path = calibration_file(variables)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(entry)) + "\n")
    except OSError:
        return False
    return True


def device_key(device: Device) -> str:
    """Return the text that identifies a device: its name and the number of usable cores."""
    return f"{device.name}, {device.cores} cores" if device.cores else device.name


def is_enabled(environment: Mapping[str, str]) -> bool:
    """Return True if calibration is turned on."""
    return environment.get(ENABLED_VARIABLE, "").strip().lower() not in ("0", "off", "no", "false")


def calibration_file(environment: Mapping[str, str]) -> Path:
    """Return the path of the calibration file: ``$XDG_STATE_HOME/tunesmith/calibration.jsonl``.

    ``XDG_STATE_HOME`` defaults to ``~/.local/state``.
    """
    return user_folder("XDG_STATE_HOME", "~/.local/state", environment) / "calibration.jsonl"


def _parse_entry(line: str) -> CalibrationEntry | None:
    """Parse one line. Return None if it is damaged or was written by another version."""
    try:
        value: Any = json.loads(line)
        known = {each.name for each in fields(CalibrationEntry)}
        entry = CalibrationEntry(**{key: item for key, item in value.items() if key in known})
        usable = min(entry.expected, entry.peak) > 0 and entry.seconds >= 0
        return entry if usable else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _is_within_factor(one: float, other: float, factor: float) -> bool:
    return one > 0 and other > 0 and 1 / factor <= one / other <= factor


def _has_similar_steps(run: CalibrationEntry, estimate: Estimate) -> bool:
    """Return True if the steps have the same number format and similar numbers of operations."""
    return run.compute_bytes == estimate.compute_bytes and _is_within_factor(
        run.flops / max(1, run.steps), estimate.flops / max(1, estimate.steps), SIMILAR_STEP
    )


def _prefer_same_technique(
    runs: Sequence[CalibrationEntry], technique: str
) -> Sequence[CalibrationEntry]:
    """Return the runs of the same technique if there are enough, otherwise all runs."""
    own = [run for run in runs if run.technique == technique]
    return own if len(own) >= MIN_OWN_ENTRIES else runs


def _prefer_undisturbed(runs: Sequence[CalibrationEntry]) -> Sequence[CalibrationEntry]:
    """Return the runs that other programs did not slow down; all runs if there are no such runs."""
    return [run for run in runs if (run.cpu_share or 0.0) >= MIN_CPU_SHARE] or runs


def _drop_outliers(values: list[float]) -> list[float]:
    """Drop values far from the median, because the machine was probably busy with other work."""
    if not values:
        return []
    middle = median(values)
    spread = _SIGMA * median(abs(value - middle) for value in values)
    return [value for value in values if abs(value - middle) <= max(0.5 * middle, 4 * spread)]
