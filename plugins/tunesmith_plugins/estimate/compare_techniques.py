"""Compare the memory, time and cost of all installed techniques for one run file."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import choose_evaluators
from tunesmith.errors import TunesmithError
from tunesmith.estimates import Assumptions, Estimate, EstimateRequest
from tunesmith.offers import TechniqueOffer
from tunesmith.plan import ModelReview, Plan
from tunesmith.records import Chat, Completion, Preference, Record, Text, UnpairedPreference
from tunesmith_plugins.estimate.calibration import Calibration, read_calibration
from tunesmith_plugins.estimate.hardware import Gpu, Hardware, Range
from tunesmith_plugins.estimate.memory_peak import (
    MemoryFit,
    MemoryPeak,
    check_fit,
    compute_peak,
    get_process_memory,
)
from tunesmith_plugins.estimate.request import (
    Technique,
    build_request,
    count_all_flops,
    estimate_cost,
    estimate_seconds,
    estimate_throughput,
    iterate_estimates,
    transfer_options,
)
from tunesmith_plugins.estimate.run_time import ForwardSpeed, predict_run_time
from tunesmith_plugins.estimate.savings import Saving, find_savings
from tunesmith_torch.runtime.machine import Device, DeviceType, Machine

KIND_NAMES: dict[type[Record], str] = {
    Chat: "conversations",
    Completion: "prompts with completions",
    Preference: "chosen/rejected pairs",
    Text: "plain texts",
    UnpairedPreference: "labeled answers",
}
"""Kinds of records, in the words that users know."""
THIS_MACHINE = "this machine"
TRACING_SECONDS = 8.0
"""After this many seconds, no further technique is traced; the chosen one always is."""


@dataclass(frozen=True)
class PlannedLaunch:
    """The machine and the number of processes that a run is planned for."""

    machine: Machine
    processes: int = 1

    def device(self, device_type: DeviceType, here: Device) -> Device:
        """Return this machine's device if its type matches, or a device with unknown memory."""
        if device_type == here.type:
            return here
        return Device(type=device_type, name=device_type, memory=None)


@dataclass
class TechniqueRow:
    """A technique with its options, and its estimates for each type of device."""

    technique: Technique
    chosen: bool
    config: BaseModel | None = None
    problem: str = ""
    """The reason why the technique could not be estimated; "" if it could."""
    estimates: dict[DeviceType, Estimate] = field(default_factory=dict)
    pending: dict[DeviceType, Iterator[Estimate]] = field(default_factory=dict)
    """Iterators over better estimates, which take longer to compute."""

    @property
    def name(self) -> str:
        return self.technique.offer.name


@dataclass(frozen=True, kw_only=True)
class TechniqueComparison:
    """The estimates of all techniques for one run file, which improve as techniques are traced."""

    plan: Plan
    hardware: Hardware
    this_device: Device
    """The device of this machine that the run would use, with the memory for one process."""
    processes: int
    """Number of processes that train together; memory is given per process."""
    calibration: Calibration
    target_type: DeviceType
    """The type of device that the plan is for."""
    requests: Mapping[DeviceType, EstimateRequest]
    rows: Sequence[TechniqueRow]
    review: ModelReview | None
    """The run, to predict the time of all its parts, or None if the data is assumed."""

    @property
    def chosen(self) -> TechniqueRow:
        return next(row for row in self.rows if row.chosen)

    def estimate(self, row: TechniqueRow) -> Estimate | None:
        """Return the estimate for the type of device that the plan is for."""
        if self.this_device.type == self.target_type:
            return self.estimate_on_this_machine(row)
        return row.estimates.get(self.target_type)

    def estimate_on_this_machine(self, row: TechniqueRow) -> Estimate | None:
        """Return the estimate for this machine, corrected by earlier runs."""
        estimate = row.estimates.get(self.this_device.type)
        return None if estimate is None else self.calibration.correct(estimate, row.name)

    def fits(self, row: TechniqueRow) -> dict[str, MemoryFit]:
        """Return "yes", "no" or "maybe" for each GPU class and this machine: does the run fit?"""
        fits: dict[str, MemoryFit] = {}
        rented = row.estimates.get("cuda")
        if rented is not None:
            for size, gpus in self.hardware.gpu_classes().items():
                usable = [gpu.usable for gpu in gpus]
                fits[str(size)] = check_fit(compute_peak(rented), min(usable), max(usable))
        own = self.estimate_on_this_machine(row)
        if own is not None and self.this_device.memory is not None:
            fits[THIS_MACHINE] = check_fit(compute_peak(own), self.this_device.memory)
        return fits

    def times(self, row: TechniqueRow) -> dict[str, Range]:
        """Return the training seconds on this machine and on each GPU that may fit the run."""
        times = {}
        rented = row.estimates.get("cuda")
        if rented is not None:
            for gpu in self.hardware.gpus:
                if check_fit(compute_peak(rented), gpu.usable) != "no":
                    times[gpu.name] = estimate_seconds(
                        count_all_flops(rented),
                        gpu.throughput,
                        rented.steps + rented.pilot_steps,
                    )
        own = self.estimate_on_this_machine(row)
        if own is not None and self.fits(row).get(THIS_MACHINE, "maybe") != "no":
            throughput = estimate_throughput(
                self.this_device, row.name, own, self.hardware, self.calibration
            )
            if throughput is not None:
                # No overhead per step is added, because measured throughputs include it.
                times[THIS_MACHINE] = estimate_seconds(count_all_flops(own), throughput)
        return times

    def run_time(self) -> dict[str, Range]:
        """Return the seconds of each part of the run on this machine, in order, if they are known.

        The parts are those of the chosen technique: ``baselines``, ``training`` with loading and
        saving, and ``evaluation``.
        """
        name, estimate = self.chosen.name, self.estimate_on_this_machine(self.chosen)
        training = self.times(self.chosen).get(THIS_MACHINE)
        if estimate is None or training is None or self.review is None:
            return {}
        listed = estimate_throughput(self.this_device, name, estimate, self.hardware, Calibration())
        found = predict_run_time(
            self.review,
            estimate,
            training,
            ForwardSpeed(listed) if listed else None,
            self.calibration,
            self.this_device,
        )
        return found.parts

    def costs(self, row: TechniqueRow) -> dict[str, Range]:
        """Return the cost of training in US dollars on each GPU that may fit the run."""
        times = self.times(row)
        return {
            gpu.name: estimate_cost(times[gpu.name], gpu.hourly_price)
            for gpu in self.hardware.gpus
            if gpu.name in times and gpu.hourly_price is not None
        }

    def cheapest(self, row: TechniqueRow) -> Gpu | None:
        """Return the cheapest GPU that fits the run, else the cheapest that may fit, else None."""
        rented, costs = row.estimates.get("cuda"), self.costs(row)
        if rented is None:
            return None
        priced = [gpu for gpu in self.hardware.gpus if gpu.name in costs]
        sure = [gpu for gpu in priced if check_fit(compute_peak(rented), gpu.usable) == "yes"]
        return min(sure or priced, key=lambda gpu: sum(costs[gpu.name]), default=None)

    def limit(self) -> int | None:
        """Return the bytes that the run may use, or None if the plan is not for this machine."""
        return self.this_device.memory if self.this_device.type == self.target_type else None

    def find_savings(self) -> list[Saving]:
        """Return changes to the chosen technique's options that save memory."""
        row = self.chosen
        estimate = self.estimate(row)
        if estimate is None or row.config is None:
            return []
        request, peak = self.requests[self.target_type], compute_peak(estimate)
        return find_savings(row.technique, row.config, request, peak, self.limit())

    def smallest_class_for(self, peak: MemoryPeak) -> int | None:
        """Return the memory in GB of the smallest GPU class that ``peak`` fits into, or None."""
        for size, gpus in self.hardware.gpu_classes().items():
            if check_fit(peak, min(gpu.usable for gpu in gpus)) == "yes":
                return size
        return None


def compare_techniques(
    plan: Plan,
    catalog: Catalog,
    data: tuple[Sequence[Record], Sequence[Record]],
    assumed: Assumptions | None,
    launch: PlannedLaunch,
    hardware: Hardware,
) -> Iterator[TechniqueComparison]:
    """Yield the comparison with analytic estimates, then again after each better estimate.

    Each item is the same object, with updated estimates.

    Raises:
        EnvironmentProblem: the model's config.json is not on this machine.
    """
    began = time.monotonic()
    here = launch.machine.select_device(plan.run.device)
    target_type = _target_device_type(plan, here, assumed)
    device_types: list[DeviceType] = list(dict.fromkeys([target_type, "cuda", here.type]))
    devices = {device_type: launch.device(device_type, here) for device_type in device_types}
    requests = _build_requests(plan, devices, launch.processes, data, assumed)
    rows = [_build_row(technique, plan, requests) for technique in catalog.offers(TechniqueOffer)]
    rows = [row for row in rows if row.chosen or row.technique.offer.estimate is not None]
    comparison = TechniqueComparison(
        plan=plan,
        hardware=hardware,
        this_device=replace(here, memory=get_process_memory(here, launch.processes)),
        processes=launch.processes,
        calibration=read_calibration(here),
        target_type=target_type,
        requests=requests,
        rows=sorted(rows, key=lambda row: not row.chosen),
        review=_build_review(plan, catalog, data) if assumed is None else None,
    )
    yield comparison
    for row, device_type in _tracing_order(comparison, device_types):
        always = row.chosen and device_type == target_type
        if not always and time.monotonic() - began > TRACING_SECONDS:
            return
        for better in row.pending.pop(device_type):
            row.estimates[device_type] = better
            yield comparison


def _build_review(
    plan: Plan, catalog: Catalog, data: tuple[Sequence[Record], Sequence[Record]]
) -> ModelReview:
    """Return the planned run with its data, and with the evaluators that it will use."""
    train, test = data
    planned = replace(plan, evaluators=choose_evaluators(plan, catalog, test))
    return ModelReview(plan=planned, config={}, train=train, test=test, techniques=())


def _build_requests(
    plan: Plan,
    devices: Mapping[DeviceType, Device],
    processes: int,
    data: tuple[Sequence[Record], Sequence[Record]],
    assumed: Assumptions | None,
) -> dict[DeviceType, EstimateRequest]:
    """Build a request for each device type, or none if the chosen technique has no estimate.

    Raises:
        EnvironmentProblem: the model's config.json is not on this machine.
    """
    if plan.technique.offer.estimate is None and not plan.found_model.config:
        return {}
    return {
        device_type: build_request(plan, device, processes, *data, assumed)
        for device_type, device in devices.items()
    }


def _target_device_type(plan: Plan, here: Device, assumed: Assumptions | None) -> DeviceType:
    """Return the type of device that the plan is for.

    ``auto`` means this machine, or a GPU if the run cannot start here because its data is assumed
    or the model has no weights.
    """
    cannot_run = assumed is not None or bool(plan.found_model.missing)
    return "cuda" if plan.run.device == "auto" and cannot_run else _type_of(plan.run.device, here)


def _type_of(device: str, here: Device) -> DeviceType:
    return "cuda" if device.startswith("cuda") else here.type


def _build_row(
    technique: Technique, plan: Plan, requests: Mapping[DeviceType, EstimateRequest]
) -> TechniqueRow:
    """Build a row with the technique's first estimates, or with the reason why they are missing."""
    row = TechniqueRow(technique, technique.full_name == plan.technique.offered.full_name)
    if technique.offer.estimate is None:
        return replace(row, problem="does not estimate its memory and time")
    chosen = plan.technique.config
    try:
        row.config = chosen if row.chosen else transfer_options(technique, chosen)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors() if item["loc"])
        return replace(row, problem=f"requires options that are missing from the run file: {keys}")
    for device_type, request in requests.items():
        problem = _explain_unfit_data(technique.offer, request)
        if problem:
            return replace(row, problem=problem)
        source = iterate_estimates(technique, row.config, request)
        try:
            row.estimates[device_type] = next(source)
        except StopIteration:
            return replace(row, problem="returned no estimate")
        except TunesmithError as error:
            if row.chosen:
                raise
            return replace(row, problem=error.message)
        row.pending[device_type] = source
    return row


def _explain_unfit_data(offer: TechniqueOffer[Any], request: EstimateRequest) -> str:
    """Return the reason why the technique cannot train on the data, or "" if it can."""
    refused = {type(record) for record in request.train} - offer.accepts
    if not refused:
        return ""
    return f"needs {_name_kinds(offer.accepts, 'or')}; the data has {_name_kinds(refused, 'and')}"


def _name_kinds(kinds: Collection[type[Record]], conjunction: str) -> str:
    """Return kinds of records in words, such as ``chosen/rejected pairs or labeled answers``."""
    names = sorted(KIND_NAMES.get(kind, f"{kind.__name__} records") for kind in kinds)
    *first, last = names
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def _tracing_order(
    comparison: TechniqueComparison, device_types: Sequence[DeviceType]
) -> Iterator[tuple[TechniqueRow, DeviceType]]:
    """Yield the rows to trace: the chosen technique, then the others, on the plan's device type.

    For other device types, yield only the chosen technique, and only if it is still uncertain
    whether the run fits on this machine.
    """
    for device_type in device_types:
        for row in comparison.rows:
            undecided = row.chosen and comparison.fits(row).get(THIS_MACHINE) == "maybe"
            if device_type in row.pending and (device_type == comparison.target_type or undecided):
                yield row, device_type
