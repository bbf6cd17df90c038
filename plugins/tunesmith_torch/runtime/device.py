"""Where tensors live and how wide they are: the device, and the precision that it is good at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tunesmith import distributed
from tunesmith.errors import EnvironmentProblem, UsageError

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Names that Linux gives to bfloat16 arithmetic, on x86 and on ARM."""


@dataclass(frozen=True)
class Precision:
    """The number format of the arithmetic, and the reason in words."""

    dtype: torch.dtype
    why: str

    @property
    def name(self) -> str:
        """``bfloat16`` or ``float32``."""
        return str(self.dtype).removeprefix("torch.")


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    ``auto`` takes the first GPU there is, else the CPU. Under torchrun, ``auto`` and ``cuda`` take
    a GPU for each rank. The number of CPU threads is left to torch, which reads
    ``OMP_NUM_THREADS``.

    Raises:
        UsageError: the name is none of these, or one device for several ranks.
        EnvironmentProblem: this machine has no such device, or fewer GPUs than ranks.
    """
    name = _of_rank(_best() if name == "auto" else name)
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not index.isdecimal()):
        raise UsageError(
            f'device: not a device, got "{name}"', hint="use auto, cpu, cuda, cuda:1 or mps"
        )
    count = _count(kind)
    if int(index or 0) >= count:
        raise EnvironmentProblem(
            f'device: "{name}" is not on this machine, which has {count} of kind {kind}',
            hint='leave it at "auto", which takes what there is',
        )
    return torch.device(name)


def pick_precision(
    device: torch.device, wanted: Literal["auto", "bf16", "fp32"] = "auto"
) -> Precision:
    """bfloat16 where the device computes in it by itself, else float32.

    Emulated bfloat16 is slower than float32 and less exact, so ``auto`` never picks it.
    """
    if wanted != "auto":
        dtype = torch.bfloat16 if wanted == "bf16" else torch.float32
        return Precision(dtype, "asked for")
    native = _native_bf16(device)
    if native:
        return Precision(torch.bfloat16, f"{native} computes in bfloat16")
    return Precision(torch.float32, f"this {device.type} does not compute in bfloat16 by itself")


def _of_rank(name: str) -> str:
    """The device for this rank, where torchrun has started several."""
    if distributed.count() == 1 or name == "cpu":
        return name
    if name != "cuda":
        raise UsageError(
            f'device: {distributed.count()} ranks cannot share one, got "{name}"',
            hint="use cpu" if name == "mps" else "use auto, or cpu",
        )
    if 0 < _count("cuda") < distributed.count():  # rank 0 says so, before anything is trained
        raise EnvironmentProblem(
            f"device: {distributed.count()} ranks need a GPU each, and there are {_count('cuda')}",
            hint=f"start torchrun with --nproc-per-node {_count('cuda')}, or use cpu",
        )
    return f"cuda:{distributed.local()}"


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _count(kind: str) -> int:
    match kind:
        case "cuda":
            return torch.cuda.device_count()
        case "mps":
            return int(torch.backends.mps.is_available())
        case _:
            return 1


def _native_bf16(device: torch.device) -> str:
    """What computes in bfloat16 here; empty where nothing does."""
    match device.type:
        case "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0) or bool(torch.version.hip)
            return torch.cuda.get_device_name(device) if native else ""
        case "cpu":
            flags = sorted(_cpu_flags() & _BF16_FLAGS)
            return f"this CPU ({', '.join(flags)})" if flags else ""
        case _:
            return ""


def _cpu_flags(source: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the CPU can do, by Linux's names; empty on other systems."""
    try:
        lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
