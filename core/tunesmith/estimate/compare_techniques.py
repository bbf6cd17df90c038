"""A study: every technique that can estimate, side by side, for one run file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith.catalog import Catalog
from tunesmith.contracts import Assumed, Estimate, EstimateRequest
from tunesmith.errors import TunesmithError
from tunesmith.estimate import calibration as calibrating
from tunesmith.estimate.ask import (
    Technique,
    carried,
    cost,
    estimates,
    request_of,
    seconds,
    throughput,
)
from tunesmith.estimate.calibration import Calibration
from tunesmith.estimate.hardware import Gpu, Hardware, Range
from tunesmith.estimate.memory_peak import Fit, Peak, fit, peak_of
from tunesmith.estimate.savings import Saving, savings
from tunesmith.machine import Device, Kind, Machine
from tunesmith.offers import TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Record

HERE = "this machine"
PATIENCE = 8.0
"""Seconds after which nothing further is traced; the chosen technique always is."""


@dataclass
class Row:
    """A technique with its options and what it would take, by kind of device."""

    technique: Technique
    chosen: bool
    config: BaseModel | None = None
    problem: str = ""
    """Why nothing is known."""
    found: dict[Kind, Estimate] = field(default_factory=dict)
    waiting: dict[Kind, Iterator[Estimate]] = field(default_factory=dict)
    """Where better estimates would come from."""

    @property
    def name(self) -> str:
        return self.technique.offer.name


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is known about a plan; it gets better until the last technique is traced."""

    plan: Plan
    hardware: Hardware
    here: Device
    calibration: Calibration
    primary: Kind
    """The kind of device that the plan is for."""
    requests: Mapping[Kind, EstimateRequest]
    rows: Sequence[Row]

    @property
    def chosen(self) -> Row:
        return next(row for row in self.rows if row.chosen)

    def estimate(self, row: Row) -> Estimate | None:
        """What the technique takes on the kind of device that the plan is for."""
        if self.here.kind == self.primary:
            return self.estimate_here(row)
        return row.found.get(self.primary)

    def estimate_here(self, row: Row) -> Estimate | None:
        """What it takes on this machine, as earlier runs correct it."""
        found = row.found.get(self.here.kind)
        return None if found is None else self.calibration.applied(found, row.name)

    def fits(self, row: Row) -> dict[str, Fit]:
        """By class of GPU, and on this machine: whether the run gets through."""
        verdicts: dict[str, Fit] = {}
        rented = row.found.get("cuda")
        if rented is not None:
            for size, gpus in self.hardware.classes().items():
                usable = [gpu.usable for gpu in gpus]
                verdicts[str(size)] = fit(peak_of(rented), min(usable), max(usable))
        own = self.estimate_here(row)
        if own is not None and self.here.memory is not None:
            verdicts[HERE] = fit(peak_of(own), self.here.memory)
        return verdicts

    def times(self, row: Row) -> dict[str, Range]:
        """Seconds of training, by GPU that may hold it and on this machine."""
        found = {}
        rented = row.found.get("cuda")
        if rented is not None:
            for gpu in self.hardware.gpus:
                if fit(peak_of(rented), gpu.usable) != "no":
                    found[gpu.name] = seconds(rented.flops, gpu.throughput, rented.steps)
        own = self.estimate_here(row)
        if own is not None and self.fits(row).get(HERE, "maybe") != "no":
            pace = throughput(self.here, row.name, own, self.hardware, self.calibration)
            if pace is not None:
                found[HERE] = seconds(own.flops, pace)
        return found

    def costs(self, row: Row) -> dict[str, Range]:
        """US dollars of training, by GPU that may hold it."""
        times = self.times(row)
        return {
            gpu.name: cost(times[gpu.name], gpu.hourly)
            for gpu in self.hardware.gpus
            if gpu.name in times and gpu.hourly is not None
        }

    def cheapest(self, row: Row) -> Gpu | None:
        """The GPU on which the run surely fits and costs least; else one on which it may fit."""
        rented, costs = row.found.get("cuda"), self.costs(row)
        if rented is None:
            return None
        priced = [gpu for gpu in self.hardware.gpus if gpu.name in costs]
        sure = [gpu for gpu in priced if fit(peak_of(rented), gpu.usable) == "yes"]
        return min(sure or priced, key=lambda gpu: sum(costs[gpu.name]), default=None)

    def limit(self) -> int | None:
        """Bytes that the run must do with, where the plan is for this machine."""
        return self.here.memory if self.here.kind == self.primary else None

    def savings(self) -> list[Saving]:
        """The cheapest changes of the chosen technique's options that save memory."""
        row = self.chosen
        estimate = self.estimate(row)
        if estimate is None or row.config is None:
            return []
        request = self.requests[self.primary]
        return savings(row.technique, row.config, request, peak_of(estimate), self.limit())

    def class_for(self, peak: Peak) -> int | None:
        """The smallest class of GPU that surely holds a peak."""
        for size, gpus in self.hardware.classes().items():
            if fit(peak, min(gpu.usable for gpu in gpus)) == "yes":
                return size
        return None


def study(
    plan: Plan,
    catalog: Catalog,
    data: tuple[Sequence[Record], Sequence[Record]],
    assumed: Assumed | None,
    machine: Machine,
    hardware: Hardware,
) -> Iterator[Study]:
    """The study with first estimates, at once; then again, every time that one got better.

    Raises:
        EnvironmentProblem: nothing is known about the model.
    """
    began = time.monotonic()
    here = machine.device(plan.run.device)
    primary = _primary(plan, here, assumed)
    kinds: list[Kind] = list(dict.fromkeys([primary, "cuda", here.kind]))
    requests = _requests(plan, kinds, data, assumed)
    rows = [_row(technique, plan, requests) for technique in catalog.offers(TechniqueOffer)]
    rows = [row for row in rows if row.chosen or row.technique.offer.estimate is not None]
    found = Study(
        plan=plan,
        hardware=hardware,
        here=here,
        calibration=calibrating.read(here),
        primary=primary,
        requests=requests,
        rows=sorted(rows, key=lambda row: not row.chosen),
    )
    yield found
    for row, kind in _in_order(found, kinds):
        needed = row.chosen and kind == primary
        if not needed and time.monotonic() - began > PATIENCE:
            return
        for better in row.waiting.pop(kind):
            row.found[kind] = better
            yield found


def _requests(
    plan: Plan,
    kinds: Sequence[Kind],
    data: tuple[Sequence[Record], Sequence[Record]],
    assumed: Assumed | None,
) -> dict[Kind, EstimateRequest]:
    """What is asked, by kind of device; nothing, where the chosen technique has no answer.

    Raises:
        EnvironmentProblem: nothing is known about the model.
    """
    if plan.technique.offer.estimate is None and not plan.found_model.config:
        return {}
    return {kind: request_of(plan, kind, *data, assumed) for kind in kinds}


def _primary(plan: Plan, here: Device, assumed: Assumed | None) -> Kind:
    """The kind of device that the plan is for.

    ``auto`` means this machine; but what cannot run here, an assumed file or a model without
    weights, is planned for a GPU.
    """
    imagined = assumed is not None or bool(plan.found_model.lacking)
    return "cuda" if plan.run.device == "auto" and imagined else _kind(plan.run.device, here)


def _kind(wanted: str, here: Device) -> Kind:
    return "cuda" if wanted.startswith("cuda") else here.kind


def _row(technique: Technique, plan: Plan, requests: Mapping[Kind, EstimateRequest]) -> Row:
    """A technique's first estimates."""
    row = Row(technique, technique.full_name == plan.technique.offered.full_name)
    if technique.offer.estimate is None:
        return replace(row, problem="does not say what a run takes")
    try:
        row.config = (
            plan.technique.config if row.chosen else carried(technique, plan.technique.config)
        )
    except ValidationError as error:
        keys = ", ".join(str(item["loc"][0]) for item in error.errors() if item["loc"])
        return replace(row, problem=f"needs options that are not given: {keys}")
    for kind, request in requests.items():
        foreign = _foreign(technique.offer, request)
        if foreign:
            return replace(row, problem=foreign)
        source = estimates(technique, row.config, request)
        try:
            row.found[kind] = next(source)
        except StopIteration:
            return replace(row, problem="gives no estimate")
        except TunesmithError as error:
            if row.chosen:
                raise
            return replace(row, problem=error.message)
        row.waiting[kind] = source
    return row


def _foreign(offer: TechniqueOffer[Any], request: EstimateRequest) -> str:
    """Why the technique cannot learn from the data; empty if it can."""
    kinds = {type(record) for record in request.train} - offer.accepts
    if not kinds:
        return ""
    wanted = ", ".join(sorted(kind.__name__ for kind in offer.accepts))
    return f"learns from {wanted} records, which the data does not have"


def _in_order(study: Study, kinds: Sequence[Kind]) -> Iterator[tuple[Row, Kind]]:
    """What is traced first: the chosen technique, then the others, on the plan's device.

    On another kind of device only the chosen one, and only if it is open whether it fits here.
    """
    for kind in kinds:
        for row in study.rows:
            open_here = row.chosen and study.fits(row).get(HERE) == "maybe"
            if kind in row.waiting and (kind == study.primary or open_here):
                yield row, kind
