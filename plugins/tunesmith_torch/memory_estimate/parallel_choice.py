"""Decide ``parallel = "auto"``: copies of a model where they fit, else a model that is sharded.

Imports no torch: ``tunesmith plan`` decides as training does, from the estimate by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tunesmith.estimates import EstimateRequest
from tunesmith.text import format_bytes
from tunesmith_torch.memory_estimate import analytic
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION, Grouping
from tunesmith_torch.options.training import Parallel, TrainingOptions

__all__ = ["build_setting"]

MEMORY_SHARE = 0.9
"""Share of the free memory that the upper bound of an estimate may take."""


@dataclass(frozen=True)
class ParallelChoice:
    """The way in which processes train, and the reason for it."""

    parallel: Parallel
    reason: str
    """The numbers of both ways, if they decided."""

    def __str__(self) -> str:
        return f'parallel = "auto" is "{self.parallel}": {self.reason}'


def build_setting(
    options: TrainingOptions, request: EstimateRequest, grouping: Grouping = SINGLE_COMPLETION
) -> EstimateSetting:
    """Return the setting of a request, with ``parallel = "auto"`` decided and noted."""
    if options.parallel != "auto":
        return EstimateSetting.from_request(options, request, grouping)
    choice = choose_parallel(options, request, grouping)
    options = options.model_copy(update={"parallel": choice.parallel})
    setting = EstimateSetting.from_request(options, request, grouping)
    return replace(setting, notes=(str(choice),))


def choose_parallel(
    options: TrainingOptions, request: EstimateRequest, grouping: Grouping = SINGLE_COMPLETION
) -> ParallelChoice:
    """Return the way to train with so many processes, each with so much memory.

    Copies, if the upper bound of their estimate fits, or if sharding takes no less. Other options
    that are ``auto`` are taken to adapt to little memory.
    """
    if request.processes == 1:
        return ParallelChoice("data", "a single process trains")
    if not options.can_be_sharded:
        name = options.optimizer.name
        return ParallelChoice("data", f'optimizer.name = "{name}" cannot be sharded')
    smallest = options.with_smallest_memory()
    copies, parts = (_peak(smallest, way, request, grouping) for way in ("data", "sharded"))
    needs = (
        f"each of {request.processes} processes needs {_span(copies)} with copies of the model, "
        f"{_span(parts)} with a sharded one"
    )
    memory = request.process_memory
    if memory is None:
        return ParallelChoice("data", f"{needs}; the memory of the device is not known")
    needs += f", and may take {format_bytes(memory)}, of which a tenth stays free"
    if min(copies[0], parts[0]) > memory:
        needs += ": neither fits"
    if copies[1] <= MEMORY_SHARE * memory:
        return ParallelChoice("data", needs)
    if parts[1] >= copies[1]:
        return ParallelChoice("data", f"{needs}; sharding saves nothing at the peak")
    return ParallelChoice("sharded", needs)


def _peak(
    options: TrainingOptions, parallel: str, request: EstimateRequest, grouping: Grouping
) -> tuple[int, int]:
    """Return the bounds of a process's peak memory."""
    chosen: Any = options.model_copy(update={"parallel": parallel})
    memory = analytic.estimate(EstimateSetting.from_request(chosen, request, grouping)).memory
    phases = [part for name, part in memory.items() if name != "evaluate"]  # of rank 0 alone
    return max(part.low for part in phases), max(part.high for part in phases)


def _span(bounds: tuple[int, int]) -> str:
    low, high = map(format_bytes, bounds)
    return f"{low} to {high}"
