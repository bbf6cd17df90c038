"""Request estimates from techniques, and convert them to time and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from tunesmith.errors import EnvironmentProblem, TunesmithError
from tunesmith.estimates import Assumptions, Estimate, EstimateRequest
from tunesmith.fence import call_in_fence, fence
from tunesmith.offers import EvaluatorOffer, Offered, TechniqueOffer
from tunesmith.options import from_table
from tunesmith.plan import Component, Plan
from tunesmith.records import Record
from tunesmith_plugins.estimate.calibration import Calibration
from tunesmith_plugins.estimate.hardware import Hardware, Range
from tunesmith_plugins.estimate.memory_peak import RANK_0_PHASE, get_process_memory
from tunesmith_torch.runtime.environment import prepare_environment
from tunesmith_torch.runtime.machine import Device

if TYPE_CHECKING:
    from tunesmith_torch.memory_estimate.speed import Speed

Technique = Offered[TechniqueOffer[Any]]


def build_request(  # noqa: PLR0913 - the last two are for special cases
    plan: Plan,
    device: Device,
    processes: int,
    train: Sequence[Record],
    test: Sequence[Record],
    assumed: Assumptions | None = None,
    config: Mapping[str, Any] | None = None,
) -> EstimateRequest:
    """Build a request with everything that a technique needs for an estimate.

    If ``device`` is not part of this machine, its memory is unknown. ``config`` is the content of
    config.json, for models whose plan does not include it.

    Raises:
        EnvironmentProblem: the model's config.json is not on this machine.
    """
    model_config = config or plan.found_model.config
    if not model_config:
        raise EnvironmentProblem(
            f"model.base: the config.json of {plan.found_model.reference} is not on this machine",
            hint=f"run `hf download {plan.found_model.reference} config.json tokenizer.json`, "
            "or set model.base to a folder with a config.json (planning needs no weights)",
        )
    return EstimateRequest(
        config=model_config,
        tokenizer=plan.found_model.tokenizer(),
        train=train,
        test=test,
        assumed=assumed,
        device=device.type,
        seed=plan.run.seed,
        model_count=max(map(_models_needed, plan.evaluators), default=1),
        processes=processes,
        process_memory=get_process_memory(device, processes),
    )


def _models_needed(evaluator: Component[EvaluatorOffer[Any]]) -> int:
    offer = evaluator.offer
    return call_in_fence(evaluator.offered, "model_count", offer.model_count, evaluator.config)


def iterate_estimates(
    technique: Technique, config: BaseModel, request: EstimateRequest
) -> Iterator[Estimate]:
    """Yield the technique's estimates, each better than the previous one.

    If a later estimate fails, yield the last good one again with a note. If the technique has no
    estimate function, yield nothing.

    Raises:
        TunesmithError: the first estimate failed.
    """
    if technique.offer.estimate is None:
        return
    source = iter(technique.offer.estimate(config, request))
    last: Estimate | None = None
    while True:
        try:
            with fence(technique.plugin, "estimate", may_take_long=True):
                better = next(source, None)
        except TunesmithError as error:
            if last is None:
                raise
            yield replace(last, notes=(*last.notes, f"a better estimate failed: {error.message}"))
            return
        if better is None:
            return
        last = _name_phases(better, request)
        yield last


def _name_phases(estimate: Estimate, request: EstimateRequest) -> Estimate:
    """Rename the evaluation phase if several processes train on a CPU: only rank 0 evaluates."""
    if request.processes == 1 or request.device != "cpu":
        return estimate
    names = {"evaluate": RANK_0_PHASE}
    memory = {names.get(phase, phase): part for phase, part in estimate.memory.items()}
    return replace(estimate, memory=memory)


def first_estimate(
    technique: Technique, config: BaseModel, request: EstimateRequest
) -> Estimate | None:
    """Return the first estimate, which is analytic and fast.

    The result is None if the technique has no estimate.
    """
    return next(iterate_estimates(technique, config, request), None)


def transfer_options(technique: Technique, chosen: BaseModel) -> BaseModel:
    """Build the options of another technique from the keys that it shares with the run file's.

    Transfer nested tables key by key. Drop keys that the technique does not have and values that it
    rejects, so that their defaults apply.

    Raises:
        ValidationError: the technique requires an option that is missing from the run file.
    """
    table = chosen.model_dump(mode="json", exclude_unset=True, by_alias=True)
    while True:
        try:
            options: BaseModel = from_table(technique.offer.config, table)
            return options
        except ValidationError as error:
            problems = [(item["type"], _find_path(table, item["loc"])) for item in error.errors()]
            kept = _without(table, [path for kind, path in problems if kind != "missing"])
            if kept == table:  # drop a whole table if a required option in it is missing
                kept = _without(table, [path for _, path in problems])
            if kept == table:
                raise
            table = kept


def _without(
    table: Mapping[str, Any], refused: Sequence[tuple[str, ...]], above: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the table without the keys at rejected paths, and without tables that become empty."""
    kept = {}
    for key, value in table.items():
        path = (*above, key)
        rest = _without(value, refused, path) if isinstance(value, dict) else value
        if path not in refused and (rest or not value):
            kept[key] = rest
    return kept


def _find_path(table: Mapping[str, Any], location: Sequence[str | int]) -> tuple[str, ...]:
    """Return the keys that lead to an error's location (from pydantic) in nested tables.

    Skip parts of the location that are not keys: branches of a union, and positions in a list. A
    list is rejected as a whole.
    """
    path: list[str] = []
    node: Any = table
    for part in location:
        if isinstance(node, dict) and part in node:
            path.append(str(part))
            node = node[part]
    return tuple(path)


SHARE_OF_MEASURED: Range = (0.5, 1.25)
"""Lowest and highest speed of training, as a share of the measured speed of a layer.

The loss, adapters, the optimizer and small batches take time, too.
"""


def measure_layer(config: Mapping[str, Any], estimate: Estimate, device: Device) -> Speed | None:
    """Measure how fast the processor computes a layer; return None if it cannot be measured."""
    if device.type != "cpu" or not estimate.compute_bytes:
        return None
    try:
        prepare_environment()  # the run will use the torch that is imported here
        from tunesmith_torch.memory_estimate.speed import measure_speed

        tokens = estimate.tokens // max(1, estimate.steps)
        return measure_speed(config, estimate.compute_bytes, tokens)
    except Exception:  # a model of any kind can fail; the forecast is only wider then
        return None


def estimate_throughput(
    device: Device,
    technique: str,
    estimate: Estimate,
    hardware: Hardware,
    calibration: Calibration,
    speed: Speed | None = None,
) -> Range | None:
    """Return the range of operations per second in training on a device of this machine.

    The range comes from earlier runs or, without any, from the measured speed, or from the hardware
    table. Return None for a GPU that the table does not list.
    """
    measured = calibration.throughput(technique, estimate)
    if measured is not None:
        return measured
    if speed is not None:
        low, high = SHARE_OF_MEASURED
        return low * speed.training, high * speed.training
    if device.type == "cuda":
        known = hardware.find_gpu(device.name)
        return known.throughput if known else None
    low, high = hardware.find_processor(device.flags).throughput
    return low * max(1, device.cores), high * max(1, device.cores)


STEP_OVERHEAD = (0.01, 0.1)
"""Lowest and highest overhead per step in seconds, from kernel launches and Python code.

A small model on a large GPU spends most of its time on this; the overhead of a Trainer alone is 5
to 10 ms.
"""


def count_all_flops(estimate: Estimate) -> float:
    """Return the floating-point operations of the training and its pilot runs."""
    return estimate.flops * (1 + estimate.pilot_steps / max(estimate.steps, 1))


def estimate_seconds(flops: float, throughput: Range, steps: int = 0) -> Range:
    """Return the shortest and longest time in seconds for ``flops`` operations in ``steps`` steps.

    ``throughput`` is in operations per second.
    """
    low, high = throughput
    return flops / high + steps * STEP_OVERHEAD[0], flops / low + steps * STEP_OVERHEAD[1]


def estimate_cost(time: Range, hourly_price: Range) -> Range:
    """Return the lowest and highest cost of ``time`` seconds, in the currency of the price."""
    return time[0] / 3600 * hourly_price[0], time[1] / 3600 * hourly_price[1]
