"""Measure this process's peak memory, and recognize out-of-memory errors."""

from __future__ import annotations

import torch

from tunesmith_torch.runtime import machine
from tunesmith_torch.runtime.malloc import trim_heap

__all__ = ["peak_bytes"]


def reset_peak(device: torch.device) -> None:
    """Reset the peak memory; on a CPU, this only works on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        trim_heap()  # memory that was freed by an earlier training run of this process
        machine.reset_peak_resident_memory()


def peak_bytes(device: torch.device) -> int:
    """Return the peak bytes since the last reset: allocated on a GPU, resident on a CPU.

    On MPS, return the bytes allocated now, because torch records no peak there.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    return machine.peak_resident_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the error means that GPU or CPU memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
