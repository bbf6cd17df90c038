"""Freed memory stays with the process, where the C library can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from tunesmith_torch import allocator

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


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("asked for the C library"))
    assert not allocator.keep_freed_memory.__wrapped__()
