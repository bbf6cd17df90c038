"""Predict the memory of a run before training: refuse a run that cannot fit, warn if it may not.

The analytic estimate costs nothing and usually decides. Only where it cannot, the training step is
traced. After the training, the predicted and the measured peak are stored for the calibration of
later predictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith import machine
from tunesmith.catalog import Catalog
from tunesmith.contracts import Estimate, EstimateRequest
from tunesmith.errors import EnvironmentProblem, TunesmithError
from tunesmith.estimate.ask import (
    build_request,
    estimate_seconds,
    estimate_throughput,
    first_estimate,
    iterate_estimates,
    transfer_options,
)
from tunesmith.estimate.calibration import (
    CalibrationEntry,
    append_entry,
    device_key,
    read_calibration,
)
from tunesmith.estimate.hardware import load_hardware
from tunesmith.estimate.memory_peak import Fit, MemoryPeak, check_fit, compute_peak
from tunesmith.estimate.savings import Saving, find_savings
from tunesmith.events import Forecast, Notice
from tunesmith.execution.emitter import Emitter
from tunesmith.machine import Device
from tunesmith.offers import TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith.text import format_bytes

UNTRACKED_COMPONENTS = ("framework", "fragmentation")
"""Components of an estimate that a GPU's counter of allocated memory does not include."""
MIN_PEAK_GROWTH = 1.02
"""Factor by which a run must raise the process's peak memory for that peak to count as its own."""


class MemoryCheck:
    """The memory check of a run that is about to start.

    A resumed run is not checked again, unless the check refused it before.
    """

    def __init__(self, plan: Plan, catalog: Catalog, emit: Emitter, force: bool) -> None:
        self.plan = plan
        self.catalog = catalog
        self.emit = emit
        self.force = force
        before = emit.report.forecast
        self._pending = emit.report.started is None or (before is not None and before.refused)
        self._trained_before = emit.report.training_finished.get("") is not None
        self._resident_peak_before = machine.peak_resident_memory()

    def check(
        self, train: Sequence[Record], heldout: Sequence[Record], config: Mapping[str, Any]
    ) -> None:
        """Emit the forecast and refuse a run that cannot fit; only the first effective call counts.

        Without the model's ``config`` it does nothing: call it again once the config is known.

        Raises:
            EnvironmentProblem: even the low estimate is more than the available memory.
        """
        if not self._pending or not config or self.plan.technique.offer.estimate is None:
            return
        self._pending = False
        device = machine.detect_machine().select_device(self.plan.run.device)
        try:
            request = build_request(self.plan, device.type, train, heldout, config=config)
            decision = self._decide_fit(request, device)
        except TunesmithError as error:  # a failed estimate must not end a run that may well fit
            text = f"memory could not be predicted: {error.message}"
            self.emit(Notice(level="info", source="forecast", message=text))
            return
        if decision is None:
            return
        estimate, peak, fit = decision
        refused = fit == "no" and not self.force
        self.emit(self._forecast_event(estimate, peak, device, refused))
        if refused:
            raise self._refusal_error(peak, device, request)
        if fit != "yes":
            text = _warning_text(peak, device, fit)
            self.emit(Notice(level="warning", source="memory", message=text))

    def record_calibration(self) -> None:
        """Store the forecast and the measured peak of the training that has just finished."""
        report = self.emit.report
        forecast = report.forecast
        if forecast is None or self._trained_before or report.training_finished.get("") is None:
            return
        peak = report.peak_memory + forecast.untracked_bytes
        # The peak of resident memory belongs to the process. If the training did not raise
        # it, it shows nothing about the training.
        if forecast.device_type == "cpu" and peak < self._resident_peak_before * MIN_PEAK_GROWTH:
            return
        append_entry(
            CalibrationEntry(
                time=report.started.started if report.started else "",
                device=forecast.device,
                technique=forecast.technique,
                method=forecast.method,
                expected=forecast.uncalibrated_peak,
                peak=peak,
                flops=forecast.flops,
                steps=forecast.steps,
                seconds=report.training_seconds,
            )
        )

    def _decide_fit(
        self, request: EstimateRequest, device: Device
    ) -> tuple[Estimate, MemoryPeak, Fit] | None:
        """Return the estimate that decides, its calibrated peak, and if that fits the device.

        Better estimates are requested only as long as the answer is "maybe".
        """
        component = self.plan.technique
        calibration = read_calibration(device)
        decision: tuple[Estimate, MemoryPeak, Fit] | None = None
        for estimate in iterate_estimates(component.offered, component.config, request):
            peak = compute_peak(calibration.correct(estimate, component.offer.name))
            fit: Fit = "yes" if device.memory is None else check_fit(peak, device.memory)
            decision = estimate, peak, fit
            if fit != "maybe":
                break
        return decision

    def _forecast_event(
        self, estimate: Estimate, peak: MemoryPeak, device: Device, refused: bool
    ) -> Forecast:
        component = self.plan.technique
        name = component.offer.name
        calibration = read_calibration(device)
        correction = calibration.correction(estimate, name)
        hardware = load_hardware(self.plan.plan_options.prices)
        throughput = estimate_throughput(device, name, estimate, hardware, calibration)
        return Forecast(
            technique=name,
            method=estimate.method,
            device=device_key(device),
            device_type=device.type,
            available=device.memory,
            memory={**peak.to_json()},
            phase=peak.phase,
            uncalibrated_peak=compute_peak(estimate).expected,
            untracked_bytes=_untracked_bytes(estimate, device),
            calibration_runs=correction.runs if correction else 0,
            seconds=list(estimate_seconds(estimate.flops, throughput)) if throughput else [],
            flops=estimate.flops,
            steps=estimate.steps,
            tokens=estimate.tokens,
            refused=refused,
            notes=list(estimate.notes),
        )

    def _refusal_error(
        self, peak: MemoryPeak, device: Device, request: EstimateRequest
    ) -> EnvironmentProblem:
        limit = device.memory or 0
        component = self.plan.technique
        savings = find_savings(component.offered, component.config, request, peak, limit)
        changes = [_describe_saving(saving) for saving in savings]
        changes += self._other_techniques_that_fit(request, limit)
        title = (
            "changes of the run file that would help:"
            if changes
            else "no change of the run file is known to help"
        )
        return EnvironmentProblem(
            f"not enough memory: the run needs at least {_size(peak.low)}, probably "
            f"{_size(peak.expected)}; {device.name} has {_size(limit)} free",
            hint="\n  ".join(
                [
                    title,
                    *changes,
                    "`tunesmith plan RUN.toml` shows which GPUs it fits on; "
                    "`tunesmith run --force` starts it anyway",
                ]
            ),
        )

    def _other_techniques_that_fit(self, request: EstimateRequest, limit: int) -> list[str]:
        """Describe the other techniques that accept the data and fit into ``limit`` bytes."""
        found = []
        for technique in self.catalog.offers(TechniqueOffer):
            if technique.full_name == self.plan.technique.offered.full_name:
                continue
            if not {type(record) for record in request.train} <= technique.offer.accepts:
                continue
            try:
                config = transfer_options(technique, self.plan.technique.config)
                estimate = first_estimate(technique, config, request)
            except (TunesmithError, ValueError):  # cannot be estimated, so it cannot be suggested
                continue
            if estimate is not None and compute_peak(estimate).high <= limit:
                size = _size(compute_peak(estimate).expected)
                found.append(f'technique.use = "{technique.offer.name}" needs about {size}')
        return found


def read_model_config(model: Path) -> Mapping[str, Any]:
    """Read ``config.json`` of a model folder; return an empty mapping if that is not possible."""
    try:
        found = json.loads((model / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _untracked_bytes(estimate: Estimate, device: Device) -> int:
    """Return the estimated bytes that the measured peak will not include.

    On a GPU the allocator's counter leaves out some components; on a CPU the resident memory of
    the process includes all of them.
    """
    if device.type == "cpu":
        return 0
    components = estimate.memory[compute_peak(estimate).phase].components
    return sum(components.get(name, 0) for name in UNTRACKED_COMPONENTS)


def _warning_text(peak: MemoryPeak, device: Device, fit: Fit) -> str:
    free = f"{device.name} has {_size(device.memory or 0)} free"
    if fit == "no":
        return f"not enough memory, started by --force: needs at least {_size(peak.low)}; {free}"
    return (
        f"memory may run out: the run needs {_size(peak.low)} to {_size(peak.high)}, probably "
        f"{_size(peak.expected)}; {free}"
    )


def _describe_saving(saving: Saving) -> str:
    changes = ", ".join(saving.changes)
    enough = "" if saving.enough else ", not enough on its own"
    return f"{changes} saves {_size(saving.saves)}{enough} ({', '.join(saving.costs)})"


def _size(size: int) -> str:
    return format_bytes(size, binary=True)
