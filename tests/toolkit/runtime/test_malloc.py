"""Freed memory is kept for the next step, and returned on request, with glibc."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.contracts import Job
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.runtime import malloc
from tunesmith_torch.training import loop
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train

FAULTS = """
import os, resource, torch
from tunesmith_torch.runtime.malloc import keep_freed_memory
torch.set_num_threads(1)
def step():
    for _ in range(4):
        torch.ones(16 * 2**20)  # 64 MB, above every threshold of glibc's own
def count_faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
if os.fork() == 0:
    assert keep_freed_memory() and keep_freed_memory()
    count_faults()
    os._exit(0)
assert os.wait()[1] == 0
count_faults()
"""


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_second_step_has_few_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True)
    kept, by_default = map(int, done.stdout.split())
    assert kept < by_default / 10


SHAPES = """
import os, sys
from tunesmith_torch.runtime.environment import prepare_environment
prepare_environment()
import torch
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
layer = torch.nn.Linear(64, 64, bias=False, dtype=torch.bfloat16)
def compute(lengths):
    with torch.inference_mode():
        for length in lengths:
            layer(torch.ones(length, 64, dtype=torch.bfloat16))
compute(range(1, 301))
before = resident()
compute(range(301, 1001))
print((resident() - before) // 2**20)
"""


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads Linux's /proc")
def test_the_cache_of_compiled_kernels_is_bounded() -> None:
    """In MiB, where products in bf16 are native: 61, and with torch's own limits 409."""
    unset = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    command = [sys.executable, "-c", SHAPES]
    done = subprocess.run(command, capture_output=True, check=True, env=unset)
    assert int(done.stdout) < 150


KEPT = """
import os, torch
from tunesmith_torch.runtime.malloc import keep_freed_memory, trim_heap
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
keep_freed_memory()
blocks = [torch.ones(4 * 2**20) for _ in range(16)]  # 16 MB each
last = torch.ones(1000)
del blocks
kept = resident()
assert trim_heap()
print(kept - resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's files")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_kept_memory_can_be_returned() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, check=True)
    assert int(done.stdout) > 200 * 2**20


def test_nothing_changes_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: pytest.fail("loaded the C library"))
    assert not malloc.keep_freed_memory.__wrapped__()
    assert not malloc.trim_heap()


def test_training_keeps_freed_memory(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(loop, "keep_freed_memory", lambda: calls.append(True))
    config = LoraOptions(max_steps=1)
    job = Job(
        config=config,
        model=tiny_folder,
        train=[Completion(source="r:1", prompt="1?", completion="one")],
        validation=[],
        out=tmp_path,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(tmp_path / "checkpoints"),
        emit=lambda event: None,
        technique="test",
    )
    train(job, SupervisedTask())
    assert calls == [True]
