"""Record the forecast and the measured peak memory of each completed training run."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

from tunesmith.events import Event, RunFinished, RunStarted, TrainingFinished, TrainingStarted
from tunesmith.execution.execute import load_report
from tunesmith.storage import RunFolder
from tunesmith_plugins.estimate.calibration import CalibrationEntry, append_entry, is_enabled
from tunesmith_torch.runtime import machine

MIN_PEAK_GROWTH = 1.02
"""A run must raise the process's peak memory by this factor for the peak to be its own."""


class CalibrationRecorder:
    """A reporter that adds an entry to the calibration file at the end of a run that trained.

    It reads the forecast from the run's log, which also contains the steps before a resume.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._peak_before = 0
        self._began = (0.0, 0.0)
        self._entry: CalibrationEntry | None = None
        self._is_resumed = False

    def __enter__(self) -> CalibrationRecorder:
        # Otherwise an earlier, larger run in this process would hide this run's peak. Not all
        # systems can reset the peak, so the value before the run is stored as well.
        machine.reset_peak_resident_memory()
        self._peak_before = machine.peak_resident_memory()
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def report(self, event: Event) -> None:
        """Record the run at its end, if its training (not just a stage of it) has finished."""
        match event:
            case RunStarted():
                self._is_resumed = event.resumed
            case TrainingStarted():
                self._began = (time.perf_counter(), time.process_time())
            case TrainingFinished() if not event.stage and is_enabled(os.environ):
                self._entry = self._build_entry()
            case RunFinished() if self._entry is not None:
                append_entry(replace(self._entry, parts=self._measure_parts()))
                self._entry = None
            case _:
                pass

    def _measure_parts(self) -> dict[str, list[float]]:
        """Return the predicted and measured seconds of each part, or {} for a resumed run."""
        report = load_report(self._folder)
        if report.forecast is None or self._is_resumed:
            return {}
        predicted, measured = report.forecast.uncalibrated_parts, report.part_seconds
        return {part: [predicted[part], measured[part]] for part in predicted if part in measured}

    def _build_entry(self) -> CalibrationEntry | None:
        """Return the entry, or None if there is no forecast or training did not reach the peak."""
        report = load_report(self._folder)
        forecast = report.forecast
        if forecast is None:
            return None
        peak = report.peak_memory + forecast.untracked_bytes
        # The peak of resident memory covers the whole process. If training did not raise it, the
        # peak is not a measurement of training.
        if forecast.device_type == "cpu" and peak < self._peak_before * MIN_PEAK_GROWTH:
            return None
        return CalibrationEntry(
            time=report.started.started if report.started else "",
            device=forecast.device,
            technique=forecast.technique,
            method=forecast.method,
            expected=forecast.uncalibrated_peak,
            peak=peak,
            flops=forecast.flops,
            compute_bytes=forecast.compute_bytes,
            steps=forecast.steps,
            seconds=report.training_seconds,
            cpu_share=self._measure_cpu_share() if forecast.device_type == "cpu" else None,
        )

    def _measure_cpu_share(self) -> float | None:
        """Return the CPU time since training started, as a share of the time its threads could use.

        For a resumed run, the share only covers the part since the resume. With several stages, it
        only covers the last one.
        """
        began, used = self._began
        wall = time.perf_counter() - began
        # A technique without torch has not imported it, so its number of threads is unknown.
        torch = sys.modules.get("torch")
        if not began or torch is None or wall <= 0:
            return None
        threads: int = torch.get_num_threads()
        return round((time.process_time() - used) / (wall * threads), 3)
