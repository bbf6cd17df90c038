"""Resolve ``auto`` options as training does: copies of the model or shards, and recomputation.

Torch is not imported: ``tunesmith plan`` and training both decide from the analytic estimate.
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

__all__ = ["build_estimate_setting"]

MEMORY_SHARE = 0.9
"""Share of the free memory that an estimate's upper bound may use."""


@dataclass(frozen=True)
class ParallelChoice:
    """The choice of how processes train together, with its reason."""

    parallel: Parallel
    reason: str
    """The reason, with the memory of both ways if it was compared."""

    def __str__(self) -> str:
        return f'parallel = "auto" is "{self.parallel}": {self.reason}'


def build_estimate_setting(
    options: TrainingOptions, request: EstimateRequest, grouping: Grouping = SINGLE_COMPLETION
) -> EstimateSetting:
    """Return the setting of a request, with the choices that training would make for ``auto``.

    ``parallel`` is chosen and noted. Activations are recomputed unless the request names a memory
    into which they fit.
    """
    notes: tuple[str, ...] = ()
    if options.parallel == "auto":
        choice = choose_parallel(options, request, grouping)
        options = options.model_copy(update={"parallel": choice.parallel})
        notes = (str(choice),)
    if options.gradient_checkpointing is None:
        kept = options.with_smallest_memory().model_copy(update={"gradient_checkpointing": False})
        fits = training_fits(kept, request, grouping, request.process_memory)
        options = options.model_copy(update={"gradient_checkpointing": not fits})
    return replace(EstimateSetting.from_request(options, request, grouping), notes=notes)


def choose_parallel(
    options: TrainingOptions, request: EstimateRequest, grouping: Grouping = SINGLE_COMPLETION
) -> ParallelChoice:
    """Choose how the processes train, given the memory that each may use.

    Choose copies if their upper bound fits, or if sharding would not need less. Other ``auto``
    options are assumed to take the values that need the least memory.
    """
    if request.processes == 1:
        return ParallelChoice("data", "only one process trains")
    if not options.can_be_sharded:
        name = options.optimizer.name
        return ParallelChoice("data", f'optimizer.name = "{name}" cannot be sharded')
    smallest = options.with_smallest_memory()
    copies, parts = (_peak(smallest, way, request, grouping) for way in ("data", "sharded"))
    needs = (
        f"each of {request.processes} processes needs {_span(copies)} with a copy of the model, or "
        f"{_span(parts)} with a shard"
    )
    memory = request.process_memory
    if memory is None:
        return ParallelChoice("data", f"{needs}; the device's memory is unknown")
    needs += f"; {format_bytes(memory)} are available, 10 % of them kept free"
    if min(copies[0], parts[0]) > memory:
        needs += ": neither fits"
    if copies[1] <= MEMORY_SHARE * memory:
        return ParallelChoice("data", needs)
    if parts[1] >= copies[1]:
        return ParallelChoice("data", f"{needs}; sharding saves nothing at the peak")
    return ParallelChoice("sharded", needs)


def training_fits(
    options: TrainingOptions, request: EstimateRequest, grouping: Grouping, memory: int | None
) -> bool:
    """Return True if training is certain to fit into ``memory`` bytes; False if it is unknown."""
    if memory is None:
        return False
    setting = EstimateSetting.from_request(options, request, grouping)
    return analytic.estimate(setting).memory["train"].high <= MEMORY_SHARE * memory


def _peak(
    options: TrainingOptions, parallel: str, request: EstimateRequest, grouping: Grouping
) -> tuple[int, int]:
    """Return the lower and upper bound of a process's peak memory."""
    chosen: Any = options.model_copy(update={"parallel": parallel})
    memory = analytic.estimate(EstimateSetting.from_request(chosen, request, grouping)).memory
    phases = [part for name, part in memory.items() if name != "evaluate"]  # only rank 0 evaluates
    return max(part.low for part in phases), max(part.high for part in phases)


def _span(bounds: tuple[int, int]) -> str:
    low, high = map(format_bytes, bounds)
    return f"{low} to {high}"
