"""The peak of a training is its own, and not that of an earlier one in the same process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tunesmith_torch.runtime.memory import is_out_of_memory, peak_bytes, reset_peak

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone can do it")
def test_the_peak_begins_anew() -> None:
    reset_peak(CPU)
    before = peak_bytes(CPU)
    block = torch.ones(300 * MIB, dtype=torch.uint8)
    high = peak_bytes(CPU)
    assert 290 * MIB < high - before < 400 * MIB
    del block
    assert peak_bytes(CPU) > high - 8 * MIB  # the kernel counts in batches
    reset_peak(CPU)
    assert peak_bytes(CPU) < high - 200 * MIB


def test_errors_of_memory_are_recognized() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
