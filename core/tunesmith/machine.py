"""This machine: what memory a run can have here, and on which device. Nothing is imported for it.

On Linux the kernel says what is available, and control groups may allow less; NVIDIA's own tool
says what a GPU has free. Elsewhere some of it is not known, and then nothing is claimed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

Kind = Literal["cuda", "cpu"]
PATIENCE = 5
"""Seconds that the GPU's tool may take."""
QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device of this machine."""

    kind: Kind
    name: str
    memory: int | None
    """Bytes that a run can have; None: not known."""
    cores: int = 0
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Machine:
    """The processor, and the first GPU that torch would use, if there is one."""

    processor: Device
    gpu: Device | None = None

    def device(self, wanted: str) -> Device:
        """The device that ``[run] device`` means here."""
        if self.gpu is not None and (wanted == "auto" or wanted.startswith("cuda")):
            return self.gpu
        return self.processor


def this_machine() -> Machine:
    """Look around. Takes milliseconds, or as long as the GPU's tool takes."""
    name, flags = _processor(Path("/proc/cpuinfo"))
    processor = Device(
        kind="cpu",
        name=name,
        memory=available_memory(),
        cores=available_processors(),
        flags=flags,
    )
    return Machine(processor, _gpu(os.environ))


def peak_resident() -> int:
    """The most memory that this process has held so far, in bytes; 0 where that is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def available_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that a process may take: the kernel's word, or less where a control group says so.

    None where neither is known.
    """
    path = root / "proc/meminfo"
    found = []
    if path.is_file():
        lines = path.read_text().splitlines()
        found = [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")]
    elif platform.system() == "Darwin":
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min([*found, *_group_limits(root)], default=None)


def _group_limits(root: Path) -> Iterator[int]:
    """What each control group above this process has left; file cache counts as left."""
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
            left = _left(start.joinpath(*parts[:depth]), *names)
            if left is not None:
                yield left


def _left(folder: Path, limit: str, used: str, reclaimable: str) -> int | None:
    try:
        most = int((folder / limit).read_text())
        taken = int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return None
    return max(0, most - taken + int(stat.get(reclaimable, 0)))


def _processor(path: Path) -> tuple[str, frozenset[str]]:
    """Name and flags of the processor."""
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


def _gpu(environment: Mapping[str, str]) -> Device | None:
    """The GPU that torch would take first; None where there is none or torch cannot use it."""
    tool = shutil.which("nvidia-smi")
    if tool is None or not _torch_knows_gpus():
        return None
    try:
        done = subprocess.run(
            [tool, *QUERY], capture_output=True, text=True, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.rsplit(",", 2) for line in done.stdout.splitlines() if line.count(",") >= 2]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    index = 0
    if visible is not None:
        first = visible.split(",")[0].strip()
        if not first or first == "-1":
            return None
        index = int(first) if first.isdigit() else 0
    if index >= len(rows):
        return None
    name, _, free = rows[index]
    if not free.strip().isdigit():
        return None
    return Device(kind="cuda", name=name.strip(), memory=int(free) << 20)


def _torch_knows_gpus() -> bool:
    """Whether the installed torch was built for GPUs: its version says where it was not."""
    try:
        return not metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return True
