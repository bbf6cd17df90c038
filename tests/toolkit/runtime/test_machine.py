"""This machine: its processor, its GPU and their available memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith_torch.runtime import machine
from tunesmith_torch.runtime.machine import Device, Machine

GIB = 1 << 30
DEVICE = Device(type="cpu", name="core", memory=GIB, cores=4)


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_control_group_may_allow_less(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal: 99 kB\nMemAvailable: 8388608 kB\n")
    assert machine.available_memory(tmp_path) == 8 * GIB
    put(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    assert machine.available_memory(tmp_path) == 8 * GIB
    group = "sys/fs/cgroup/a"
    put(tmp_path, f"{group}/memory.max", f"{4 * GIB}\n")
    put(tmp_path, f"{group}/memory.current", f"{3 * GIB}\n")
    put(tmp_path, f"{group}/memory.stat", f"anon 1\ninactive_file {GIB}\n")
    assert machine.available_memory(tmp_path) == 2 * GIB  # file cache can go
    put(tmp_path, f"{group}/memory.max", "max\n")
    assert machine.available_memory(tmp_path) == 8 * GIB


def test_old_control_groups_too(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemAvailable: 8388608 kB\n")
    put(tmp_path, "proc/self/cgroup", "11:cpuset:/x\n4:memory:/box\n")
    group = "sys/fs/cgroup/memory/box"
    put(tmp_path, f"{group}/memory.limit_in_bytes", str(GIB))
    put(tmp_path, f"{group}/memory.usage_in_bytes", str(GIB // 2))
    put(tmp_path, f"{group}/memory.stat", "total_inactive_file 0\n")
    assert machine.available_memory(tmp_path) == GIB // 2


def test_unknown_memory_stays_unknown(tmp_path: Path) -> None:
    assert machine.available_memory(tmp_path) is None


def with_tool(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(machine, "_torch_supports_gpus", lambda: True)


TWO_GPUS = "echo 'NVIDIA H100, 81559, 80000'; echo 'NVIDIA L4, 23034, 22000'"


def test_a_gpu_is_read_from_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tool(tmp_path, TWO_GPUS, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = machine.detect_machine().select_device("auto")
    assert (gpu.name, gpu.memory) == ("NVIDIA H100", 80000 << 20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.detect_machine().select_device("cuda").name == "NVIDIA L4"
    for hidden in ("", "-1", "7"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert machine.detect_machine().select_device("auto").type == "cpu"


@pytest.mark.parametrize(
    ("visible", "device", "name", "mebibytes"),
    [
        (None, "cuda:0", "NVIDIA H100", 80000),
        (None, "cuda:1", "NVIDIA L4", 22000),
        ("1,0", "cuda", "NVIDIA L4", 22000),
        ("1, 0", "cuda:1", "NVIDIA H100", 80000),
        ("0", "cuda:1", "GPU", None),  # out of range
        ("0,-1,1", "cuda:1", "GPU", None),  # CUDA reads the list until a GPU that is none
        ("GPU-1b2c,1", "cuda", "GPU", None),
        ("GPU-1b2c,1", "cuda:1", "NVIDIA L4", 22000),
    ],
)
def test_a_gpu_is_the_one_that_the_run_file_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    visible: str | None, device: str, name: str, mebibytes: int | None,
) -> None:  # fmt: skip
    with_tool(tmp_path, TWO_GPUS, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = machine.detect_machine().select_device(device)
    assert (gpu.type, gpu.name) == ("cuda", name)
    assert gpu.memory == (None if mebibytes is None else mebibytes << 20)


def test_a_gpu_whose_memory_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch uses it all the same: one that shares the memory of the processor, say."""
    with_tool(tmp_path, "echo 'NVIDIA GB10, [N/A], [N/A]'", monkeypatch)
    gpu = machine.detect_machine().select_device("auto")
    assert (gpu.name, gpu.memory) == ("NVIDIA GB10", None)


@pytest.mark.parametrize("text", ["exit 9", "echo nonsense", "true"])
def test_a_tool_that_fails_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with_tool(tmp_path, text, monkeypatch)
    assert not machine.detect_machine().gpus


def test_a_torch_without_gpus_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tool(tmp_path, "echo 'NVIDIA H100, 81559, 80000'", monkeypatch)
    monkeypatch.setattr(machine, "_torch_supports_gpus", lambda: False)
    assert not machine.detect_machine().gpus


def test_what_the_run_file_means_by_device() -> None:
    gpu = Device(type="cuda", name="gpu", memory=1)
    both, alone = Machine(DEVICE, (gpu,)), Machine(DEVICE)
    assert [both.select_device(d).type for d in ("auto", "cuda:0", "cpu", "mps")] == [
        "cuda", "cuda", "cpu", "cpu",
    ]  # fmt: skip
    assert [alone.select_device(d).type for d in ("auto", "cuda", "cpu")] == ["cpu", "cpu", "cpu"]
