"""Find this machine's devices and their available memory, without importing torch.

On Linux, the kernel reports the available memory, and control groups may lower it. nvidia-smi
reports the free memory of GPUs. On other systems some values are unknown, and None.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

__all__ = [
    "Device",
    "DeviceType",
    "Machine",
    "available_memory",
    "available_processors",
    "count_local_ranks",
    "detect_machine",
    "peak_resident_memory",
    "reset_peak_resident_memory",
]

DeviceType = Literal["cuda", "cpu"]
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Linux's names of the processor flags for bfloat16 arithmetic, on x86 and ARM."""
MIN_BF16_HIDDEN_SIZE = 256
"""Lowest hidden size where training in bfloat16 is faster, on a CPU that has this arithmetic.

Products of smaller models take less time than the steps around them, which bfloat16 makes slower.
"""
NVIDIA_SMI_TIMEOUT = 5
"""Maximum seconds to wait for nvidia-smi."""
NVIDIA_SMI_QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
_PROCESSOR = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Device:
    """The GPU or CPU of a run, with the memory that it may use."""

    type: DeviceType
    name: str
    memory: int | None
    """Bytes available to a run; None if unknown."""
    cores: int = 0
    """Number of CPU cores that this process may use; 0 if unknown, and for a GPU."""
    flags: frozenset[str] = frozenset()


def find_bf16_flags(flags: frozenset[str]) -> list[str]:
    """Return the flags that make a processor faster in bfloat16 than in float32; often none.

    Intel cores with avx512_fp16 also have AMX for bfloat16. If a virtual machine hides AMX, only
    avx512_bf16 is left, which is slower than float32: 150 versus 250 GFLOP/s on two such cores.
    """
    found = flags & BF16_FLAGS
    if "avx512_fp16" in flags and "amx_bf16" not in flags:
        found -= {"avx512_bf16"}
    return sorted(found)


def is_small_for_bf16(hidden_size: int | None) -> bool:
    """Return True if a model of this size is not faster in bfloat16 on any CPU."""
    return hidden_size is not None and hidden_size < MIN_BF16_HIDDEN_SIZE


def read_processor_flags() -> frozenset[str]:
    """Return Linux's names of this processor's flags; empty on other systems."""
    return _processor(_PROCESSOR)[1]


def count_local_ranks(ranks: int) -> int:
    """Return how many of the ``ranks`` that train together run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", ranks)) if ranks > 1 else 1


UNKNOWN_GPU = Device(type="cuda", name="GPU", memory=None)


@dataclass(frozen=True)
class Machine:
    """The processor of this machine, and the GPUs that torch can use, in torch's order."""

    processor: Device
    gpus: Sequence[Device] = ()

    def select_device(self, name: str) -> Device:
        """Return this machine's device for a value of ``[run] device``."""
        kind, _, index = name.partition(":")
        if not self.gpus or kind not in ("auto", "cuda"):
            return self.processor
        number = int(index) if index.isdecimal() else 0
        return self.gpus[number] if number < len(self.gpus) else UNKNOWN_GPU


def detect_machine() -> Machine:
    """Find this machine's devices, in milliseconds, or as long as nvidia-smi takes."""
    name, flags = _processor(_PROCESSOR)
    processor = Device(
        type="cpu",
        name=name,
        memory=available_memory(),
        cores=available_processors(),
        flags=flags,
    )
    return Machine(processor, _gpus(os.environ))


def peak_resident_memory() -> int:
    """Return the peak resident memory of this process in bytes; 0 if unknown.

    On Linux, this is the peak since the last call of :func:`reset_peak_resident_memory`. Elsewhere
    it is the peak since the process started.
    """
    with suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def reset_peak_resident_memory() -> None:
    """Reset this process's peak memory to its present use; has no effect except on Linux.

    A process may execute several training runs. Without a reset, all would report the largest peak.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc_pid_clear_refs(5)


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the available memory in bytes, from the kernel or a stricter control group.

    None if neither is known. On macOS, all physical memory counts as available.
    """
    path = root / "proc/meminfo"
    limits = []
    if path.is_file():
        lines = path.read_text().splitlines()
        limits = [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")]
    elif platform.system() == "Darwin":
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min([*limits, *_group_limits(root)], default=None)


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the free memory of each control group of this process; file cache counts as free."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            start = mounted
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            start = mounted / "memory"
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts) + 1):
            free = _group_free_memory(start.joinpath(*parts[:depth]), *names)
            if free is not None:
                yield free


def _group_free_memory(folder: Path, limit: str, used: str, reclaimable: str) -> int | None:
    try:
        maximum = int((folder / limit).read_text())
        current = int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such control group, or no limit: "max"
        return None
    return max(0, maximum - current + int(stat.get(reclaimable, 0)))


def _processor(path: Path) -> tuple[str, frozenset[str]]:
    """Return the name and the flags of the processor."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return name, flags
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            return name, frozenset(value.split())
    return name, flags


def _gpus(environment: Mapping[str, str]) -> Sequence[Device]:
    """Return the GPUs that torch would use, in torch's order; none if torch cannot use GPUs."""
    tool = shutil.which("nvidia-smi")
    if tool is None or not _torch_supports_gpus():
        return ()
    try:
        result = subprocess.run(
            [tool, *NVIDIA_SMI_QUERY],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [line.rsplit(",", 2) for line in result.stdout.splitlines() if line.count(",") >= 2]
    there = [
        Device(type="cuda", name=name.strip(), memory=_mebibytes(free)) for name, _, free in rows
    ]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if not there or visible is None:
        return there
    return [*_visible_gpus(visible, there)]


def _visible_gpus(names: str, there: Sequence[Device]) -> Iterator[Device]:
    """Yield the GPUs in ``CUDA_VISIBLE_DEVICES``; CUDA ignores everything after a wrong entry."""
    for name in map(str.strip, names.split(",")):
        if not name or name == "-1" or (name.isdecimal() and int(name) >= len(there)):
            return
        yield there[int(name)] if name.isdecimal() else UNKNOWN_GPU  # UUID of a GPU or MIG part


def _mebibytes(text: str) -> int | None:
    """Convert nvidia-smi's mebibytes to bytes; return None if it printed no number."""
    return int(text) << 20 if text.strip().isdecimal() else None


def _torch_supports_gpus() -> bool:
    """Return False if the installed torch is known to be a CPU-only build."""
    try:
        return not metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return True
