"""Asking techniques what a run would take, and holding the answer against what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith.contracts import Assumed, Estimate, EstimateRequest
from tunesmith.errors import EnvironmentProblem, TunesmithError
from tunesmith.estimate.calibration import Calibration
from tunesmith.estimate.hardware import Hardware, Range
from tunesmith.machine import Device, Kind
from tunesmith.offered import Offered
from tunesmith.offers import EvaluatorOffer, TechniqueOffer
from tunesmith.options import from_table
from tunesmith.plan import Component, Plan
from tunesmith.plugins import blame
from tunesmith.records import Record

Technique = Offered[TechniqueOffer[Any]]


def request_of(
    plan: Plan,
    kind: Kind,
    train: Sequence[Record],
    heldout: Sequence[Record],
    assumed: Assumed | None = None,
    config: Mapping[str, Any] | None = None,
) -> EstimateRequest:
    """What a technique needs to know to estimate.

    Raises:
        EnvironmentProblem: the model's config.json is not on this machine.
    """
    facts = config or plan.found_model.config
    if not facts:
        raise EnvironmentProblem(
            f"model.base: the config.json of {plan.found_model.reference} is not on this machine",
            hint=f"hf download {plan.found_model.reference} config.json tokenizer.json, "
            "or name a folder that holds config.json: weights are not needed to plan",
        )
    return EstimateRequest(
        config=facts,
        tokenizer=plan.found_model.tokenizer(),
        train=train,
        heldout=heldout,
        assumed=assumed,
        device=kind,
        seed=plan.run.seed,
        models=max(map(_held, plan.evaluators), default=1),
    )


def _held(evaluator: Component[EvaluatorOffer[Any]]) -> int:
    with blame(evaluator.offered.plugin):
        return evaluator.offer.models(evaluator.config)


def estimates(
    technique: Technique, config: BaseModel, request: EstimateRequest
) -> Iterator[Estimate]:
    """The technique's estimates, each better than the one before; none where it gives none.

    One that fails after the first leaves the one before it standing, with a note.

    Raises:
        TunesmithError: there is not even a first.
    """
    if technique.offer.estimate is None:
        return
    source = iter(technique.offer.estimate(config, request))
    last: Estimate | None = None
    while True:
        try:
            with blame(technique.plugin):
                better = next(source, None)
        except TunesmithError as error:
            if last is None:
                raise
            yield replace(last, notes=(*last.notes, f"no better estimate: {error.message}"))
            return
        if better is None:
            return
        last = better
        yield better


def first_estimate(
    technique: Technique, config: BaseModel, request: EstimateRequest
) -> Estimate | None:
    """The analytic estimate, which costs nothing."""
    return next(estimates(technique, config, request), None)


def carried(technique: Technique, chosen: BaseModel) -> BaseModel:
    """Options of another technique that say what the run file says, as far as it knows the keys.

    Raises:
        ValidationError: it must be given options that the run file does not have.
    """
    offer = technique.offer
    said = chosen.model_dump(mode="json", include=set(chosen.model_fields_set), by_alias=True)
    keys = {info.alias or name for name, info in offer.config.model_fields.items()}
    table = {key: value for key, value in said.items() if key in keys}
    while True:
        try:
            made: BaseModel = from_table(offer.config, table)
            return made
        except ValidationError as error:
            bad = {str(item["loc"][0]) for item in error.errors() if item["loc"]} & table.keys()
            if not bad:
                raise
            table = {key: value for key, value in table.items() if key not in bad}


def throughput(
    device: Device,
    technique: str,
    estimate: Estimate,
    hardware: Hardware,
    calibration: Calibration,
) -> Range | None:
    """What training reaches on a device of this machine: as seen, else as tabulated."""
    seen = calibration.throughput(technique, estimate)
    if seen is not None:
        return seen
    if device.kind == "cuda":
        known = hardware.named(device.name)
        return known.throughput if known else None
    low, high = hardware.core(device.flags).throughput
    return low * max(1, device.cores), high * max(1, device.cores)


STEP = (0.01, 0.1)
"""Seconds that a step takes at least: launching kernels and the Python around them.

What a small model waits for on a large GPU; a Trainer's own overhead alone is 5 to 10 ms."""


def seconds(flops: float, pace: Range, steps: int = 0) -> Range:
    """How long so many operations in so many steps take, from the fastest to the slowest."""
    low, high = pace
    return flops / high + steps * STEP[0], flops / low + steps * STEP[1]


def cost(time: Range, hourly: Range) -> Range:
    """What so much time costs, in the price's currency."""
    return time[0] / 3600 * hourly[0], time[1] / 3600 * hourly[1]
