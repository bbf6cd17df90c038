"""Whether a run is let in: it is refused if it surely does not fit, and told if it might not.

The first estimate costs nothing and mostly decides; only where it leaves the question open is the
step traced. Afterwards the prediction is held against what the run took, and remembered.
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
from tunesmith.estimate import calibration as calibrating
from tunesmith.estimate import hardware
from tunesmith.estimate.ask import (
    carried,
    estimates,
    first_estimate,
    request_of,
    seconds,
    throughput,
)
from tunesmith.estimate.calibration import Calibration, Seen
from tunesmith.estimate.memory_peak import Fit, Peak, fit, peak_of
from tunesmith.estimate.savings import Saving, savings
from tunesmith.events import Forecast, Noticed
from tunesmith.execution.emitter import Telling
from tunesmith.machine import Device
from tunesmith.offers import TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith.text import bytes_text

UNCOUNTED = ("framework", "fragmentation")
RAISED = 1.02
"""By what factor a run must raise the process's peak for the peak to be its own."""


class Admission:
    """Judges a run that is about to begin; one that was let in before simply goes on."""

    def __init__(self, plan: Plan, catalog: Catalog, tell: Telling, force: bool) -> None:
        self.plan = plan
        self.catalog = catalog
        self.tell = tell
        self.force = force
        before = tell.report.forecast
        self._due = tell.report.started is None or (before is not None and before.refused)
        self._trained = tell.report.trained.get("") is not None
        self._held = machine.peak_resident()

    def judge(
        self, train: Sequence[Record], heldout: Sequence[Record], config: Mapping[str, Any]
    ) -> None:
        """Tell what the run will take, once, and refuse it if that cannot be had.

        Without the model's config there is nothing to judge by: ask again when it is there.

        Raises:
            EnvironmentProblem: even the low estimate is above what there is.
        """
        if not self._due or not config or self.plan.technique.offer.estimate is None:
            return
        self._due = False
        device = machine.this_machine().device(self.plan.run.device)
        try:
            request = request_of(self.plan, device.kind, train, heldout, config=config)
            judged = self._judged(request, device)
        except TunesmithError as error:  # an estimate is advice: no run ends for want of it
            text = f"nothing is foretold about memory: {error.message}"
            self.tell(Noticed(level="info", source="forecast", message=text))
            return
        if judged is None:
            return
        estimate, peak, verdict = judged
        refused = verdict == "no" and not self.force
        self.tell(self._event(estimate, peak, device, refused))
        if refused:
            raise self._refusal(peak, device, request)
        if verdict != "yes":
            doubt = _doubt(peak, device, verdict)
            self.tell(Noticed(level="warning", source="memory", message=doubt))

    def remember(self) -> None:
        """Hold a training that has just ended against its forecast, for predictions to come.

        One that never came near the process's earlier peak has shown nothing about its own.
        """
        report = self.tell.report
        forecast = report.forecast
        if forecast is None or self._trained or report.trained.get("") is None:
            return
        peak = report.peak_memory + forecast.uncounted
        if forecast.kind_of_device == "cpu" and peak < self._held * RAISED:
            return
        calibrating.append(
            Seen(
                time=report.started.started if report.started else "",
                device=forecast.device,
                technique=forecast.technique,
                method=forecast.method,
                expected=forecast.uncorrected,
                peak=peak,
                flops=forecast.flops,
                steps=forecast.steps,
                seconds=report.training_seconds,
            )
        )

    def _judged(
        self, request: EstimateRequest, device: Device
    ) -> tuple[Estimate, Peak, Fit] | None:
        """The estimate that decides, its peak as earlier runs correct it, and the verdict."""
        component = self.plan.technique
        learned = calibrating.read(device)
        judged: tuple[Estimate, Peak, Fit] | None = None
        for estimate in estimates(component.offered, component.config, request):
            peak = peak_of(learned.applied(estimate, component.offer.name))
            verdict: Fit = "yes" if device.memory is None else fit(peak, device.memory)
            judged = estimate, peak, verdict
            if verdict != "maybe":
                break
        return judged

    def _event(self, estimate: Estimate, peak: Peak, device: Device, refused: bool) -> Forecast:
        component = self.plan.technique
        name = component.offer.name
        learned: Calibration = calibrating.read(device)
        correction = learned.correction(estimate, name)
        table = hardware.load(self.plan.planning.prices)
        pace = throughput(device, name, estimate, table, learned)
        return Forecast(
            technique=name,
            method=estimate.method,
            device=calibrating.identity(device),
            kind_of_device=device.kind,
            available=device.memory,
            memory={**peak.to_json()},
            phase=peak.phase,
            uncorrected=peak_of(estimate).expected,
            uncounted=_uncounted(estimate, device),
            runs=correction.runs if correction else 0,
            seconds=list(seconds(estimate.flops, pace)) if pace else [],
            flops=estimate.flops,
            steps=estimate.steps,
            tokens=estimate.tokens,
            refused=refused,
            notes=list(estimate.notes),
        )

    def _refusal(self, peak: Peak, device: Device, request: EstimateRequest) -> EnvironmentProblem:
        limit = device.memory or 0
        component = self.plan.technique
        ways = [_way(s) for s in savings(component.offered, component.config, request, peak, limit)]
        ways += self._others(request, limit)
        return EnvironmentProblem(
            f"the run does not fit: it needs at least {_size(peak.low)} of memory, likely "
            f"{_size(peak.expected)}, and {device.name} has {_size(limit)} free",
            hint="\n  ".join(
                [
                    "what would help:" if ways else "nothing that is known would help enough:",
                    *ways,
                    "`tunesmith plan` shows where it fits; --force runs it all the same",
                ]
            ),
        )

    def _others(self, request: EstimateRequest, limit: int) -> list[str]:
        """Other techniques that would fit."""
        found = []
        for technique in self.catalog.offers(TechniqueOffer):
            if technique.full_name == self.plan.technique.offered.full_name:
                continue
            if not {type(record) for record in request.train} <= technique.offer.accepts:
                continue
            try:
                config = carried(technique, self.plan.technique.config)
                estimate = first_estimate(technique, config, request)
            except (TunesmithError, ValueError):  # what cannot be estimated is no advice
                continue
            if estimate is not None and peak_of(estimate).high <= limit:
                size = _size(peak_of(estimate).expected)
                found.append(f'technique.use = "{technique.offer.name}" needs about {size}')
        return found


def config_in(model: Path) -> Mapping[str, Any]:
    """The ``config.json`` of a model folder; empty where there is none that can be read."""
    try:
        found = json.loads((model / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _uncounted(estimate: Estimate, device: Device) -> int:
    """What a GPU's counter of allocated memory leaves out; resident memory leaves out nothing."""
    if device.kind == "cpu":
        return 0
    components = estimate.memory[peak_of(estimate).phase].components
    return sum(components.get(name, 0) for name in UNCOUNTED)


def _doubt(peak: Peak, device: Device, verdict: Fit) -> str:
    if verdict == "no":
        return (
            f"forced: the run needs at least {_size(peak.low)} of memory, and {device.name} has "
            f"{_size(device.memory or 0)} free"
        )
    return (
        f"the run may not fit: it needs {_size(peak.low)} to {_size(peak.high)} of memory, likely "
        f"{_size(peak.expected)}, and {device.name} has {_size(device.memory or 0)} free"
    )


def _way(saving: Saving) -> str:
    changes = ", ".join(saving.changes)
    enough = "" if saving.enough else ", which is not enough alone"
    return f"{changes} saves {_size(saving.saves)}{enough} ({', '.join(saving.prices)})"


def _size(size: int) -> str:
    return bytes_text(size, binary=True)
