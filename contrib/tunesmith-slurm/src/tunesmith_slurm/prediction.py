"""Compare the resources that a job requests with the planner's prediction."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tunesmith
from tunesmith.errors import EnvironmentProblem
from tunesmith.plan import Plan
from tunesmith.text import format_bytes, format_count, format_duration
from tunesmith_slurm.options import SlurmOptions

THIS_MACHINE = "this machine"
"""Name of this machine in the times of a prediction."""


def list_warnings(plan: Plan, options: SlurmOptions) -> Sequence[str]:
    """Return warnings about requests below the prediction, without reading the weights.

    Raises:
        DataError: the data cannot be read, so the job would fail immediately.
    """
    tables = tomllib.loads(plan.to_toml())
    device = "cuda" if options.gpu_count else "cpu"
    try:
        estimate = tunesmith.estimate(
            tables, set={"run.device": device}, quick=True, processes=options.process_count
        )
    except EnvironmentProblem as error:
        return [f"cannot predict memory and time: {error.message}"]
    return [*check_memory(options, estimate), *check_time(options, estimate)]


def check_memory(options: SlurmOptions, estimate: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning if the main memory or the GPU is smaller than the predicted peak."""
    peak = estimate["peak"].get(estimate["technique"])
    if peak is None:
        return
    expected = peak["expected"]
    if options.gpu_count:
        usable = [gpu["usable"] for gpu in find_gpus(options, estimate)]
        if options.gpu_type and usable and expected > max(usable):
            yield (
                f"gpus = {options.gpus}: the run needs about {_gib(expected)} per GPU, but only "
                f"{_gib(max(usable))} are usable"
            )
    elif options.bytes is not None and expected * options.process_count > options.bytes:
        count = options.process_count
        what = f"{format_count(count, 'process')} need" if count > 1 else "the run needs"
        yield (
            f"mem = {options.mem} is below the prediction: {what} about {_gib(expected * count)} "
            f"(at most {_gib(peak['high'] * count)})"
        )


def check_time(options: SlurmOptions, estimate: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning if training exceeds the time limit on every GPU that the job may get."""
    times = estimate["time"].get(estimate["technique"], {})
    names = [gpu["name"] for gpu in find_gpus(options, estimate)]
    known = [
        times[name] for name in (names if options.gpu_count else [THIS_MACHINE]) if name in times
    ]
    if options.seconds is None or not known:
        return
    low = min(time["low"] for time in known) / options.process_count
    high = max(time["high"] for time in known) / options.process_count
    work = options.seconds - options.grace_seconds
    if low > work:
        outcome = (
            f"so the job will be requeued at least {math.ceil(low / work) - 1} times"
            if options.max_requeues
            else "but max_requeues is 0"
        )
        yield (
            f"time = {options.time} is below the prediction: training alone takes "
            f"{format_duration(low)} to {format_duration(high)}, {outcome}"
        )


def find_gpus(options: SlurmOptions, estimate: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the known GPUs whose names match the requested type; without a type, return all GPUs.

    Clusters choose the names of GPU types, so ``a100`` and ``nvidia_a100_80gb_pcie`` match every
    A100.
    """
    gpus: Sequence[Mapping[str, Any]] = estimate["gpus"]
    if not options.gpu_type:
        return gpus
    words = set(re.split(r"[^a-z0-9]+", options.gpu_type.lower()))
    return [gpu for gpu in gpus if words & {word.lower() for word in gpu["name"].split()}]


def _gib(count: float) -> str:
    return format_bytes(int(count))
