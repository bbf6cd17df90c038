"""Freed memory stays with the process, where the C library can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.contracts import Job
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_torch import allocator, fit
from tunesmith_torch.adapt import adapt_lora
from tunesmith_torch.finetune import supervise
from tunesmith_torch.options import LoraOptions

FAULTS = """
import resource, sys, torch
from tunesmith_torch.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
def step():
    for _ in range(4):
        torch.ones(16 * 2**20)  # 64 MB, above every threshold of glibc's own
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_second_step_pages_nothing_in() -> None:
    found = {}
    for how in ("keep", "as it is"):
        command = [sys.executable, "-c", FAULTS, how]
        found[how] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["keep"] < found["as it is"] / 10


KEPT = """
import os, torch
from tunesmith_torch.allocator import give_back, keep_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
keep_freed_memory()
blocks = [torch.ones(4 * 2**20) for _ in range(16)]  # 16 MB each
last = torch.ones(1000)
del blocks
kept = resident()
assert give_back()
print(kept - resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's files")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_what_is_kept_can_be_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, check=True)
    assert int(done.stdout) > 200 * 2**20


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(
        allocator.ctypes, "CDLL", lambda name: pytest.fail("asked for the C library")
    )
    assert not allocator.keep_freed_memory.__wrapped__()
    assert not allocator.give_back()


def test_training_asks_for_it(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(fit, "keep_freed_memory", lambda: asked.append(True))
    config = LoraOptions(max_steps=1)
    job = Job(
        config=config,
        model=tiny_folder,
        train=[Completion(source="r:1", prompt="1?", completion="one")],
        heldout=[],
        out=tmp_path,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(tmp_path / "checkpoints"),
        emit=lambda event: None,
        technique="test",
    )
    supervise(job, lambda base, precision: adapt_lora(base, precision, config, 1))
    assert asked == [True]
