"""Choose the device of a run and the precision of its computations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from tunesmith import distributed
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.text import format_count
from tunesmith_torch.runtime.machine import (
    count_local_ranks,
    find_bf16_flags,
    is_small_for_bf16,
    read_processor_flags,
)

__all__ = ["Precision", "pick_device", "pick_precision"]


@dataclass(frozen=True)
class Precision:
    """The dtype of the computation, with the reason for it."""

    dtype: torch.dtype
    reason: str
    """The reason for this dtype, for reports; ``requested`` if the run file sets it."""

    @property
    def name(self) -> str:
        """``bfloat16`` or ``float32``."""
        return str(self.dtype).removeprefix("torch.")


def pick_device(name: str = "auto") -> torch.device:
    """Return the device named ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    ``auto`` is the first GPU if there is one, otherwise the CPU. Under torchrun, ``auto`` and
    ``cuda`` give each rank its own GPU. torch takes the number of CPU threads from
    ``OMP_NUM_THREADS``.

    Raises:
        UsageError: the name is not one of these, or names one device for several ranks.
        EnvironmentProblem: this machine has no such device, or fewer GPUs than ranks.
    """
    name = _device_of_rank(_best_device() if name == "auto" else name)
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not index.isdecimal()):
        raise UsageError(
            f'device: unknown device "{name}"', hint="use auto, cpu, cuda, cuda:1 or mps"
        )
    count = _device_count(kind)
    if int(index or 0) >= count:
        raise EnvironmentProblem(
            f'device: there is no "{name}" on this machine, which has '
            f"{format_count(count, f'{kind} device')}",
            hint='use "auto": a GPU if there is one, otherwise the CPU',
        )
    return torch.device(name)


def pick_precision(
    device: torch.device,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    *,
    hidden_size: int | None = None,
    cpu_flags: frozenset[str] | None = None,
) -> Precision:
    """Return the requested precision; ``auto`` is bfloat16 where that is native and faster.

    ``auto`` never picks emulated or slow bfloat16, which would only be less exact. The choice
    depends on the processor and on the model's ``hidden_size``, if known. It is not measured,
    because a measurement depends on the load, and the results would then too. ``cpu_flags`` holds
    Linux's names of CPU flags; by default, the flags of this machine are used.
    """
    if precision != "auto":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return Precision(dtype, "requested")
    native = _native_bf16_device(device, cpu_flags)
    if native and device.type == "cpu" and is_small_for_bf16(hidden_size):
        reason = f"a model with hidden size {hidden_size} is too small to be faster in bfloat16"
        return Precision(torch.float32, reason)
    if native:
        return Precision(torch.bfloat16, f"{native} computes in bfloat16")
    return Precision(torch.float32, f"this {device.type} does not compute faster in bfloat16")


def _device_of_rank(name: str) -> str:
    """Return the name of this rank's device; ``name`` itself in a single process."""
    if distributed.world_size() == 1 or name == "cpu":
        return name
    if name != "cuda":
        raise UsageError(
            f'device: {distributed.world_size()} ranks cannot share one device, got "{name}"',
            hint="use cpu" if name == "mps" else "use auto, or cpu",
        )
    gpus = _device_count("cuda")
    ranks = count_local_ranks(distributed.world_size())
    if 0 < gpus < ranks:
        raise EnvironmentProblem(
            f"device: {ranks} ranks need a GPU each, but this machine has {gpus}",
            hint=f"start torchrun with --nproc-per-node {gpus}, or use cpu",
        )
    return f"cuda:{distributed.local_rank()}"


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _device_count(kind: str) -> int:
    match kind:
        case "cuda":
            return torch.cuda.device_count()
        case "mps":
            return int(torch.backends.mps.is_available())
        case _:
            return 1


def _native_bf16_device(device: torch.device, cpu_flags: frozenset[str] | None) -> str:
    """Return the device's name if it is faster in bfloat16, otherwise an empty string."""
    match device.type:
        case "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0) or bool(torch.version.hip)
            return torch.cuda.get_device_name(device) if native else ""
        case "cpu":
            flags = find_bf16_flags(read_processor_flags() if cpu_flags is None else cpu_flags)
            return f"this CPU ({', '.join(flags)})" if flags else ""
        case _:
            return ""
