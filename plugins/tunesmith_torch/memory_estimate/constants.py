"""Sizes of memory other than tensors: libraries, the device's context, allocator overhead.

The CPU figures were measured with the versions given below. The CUDA figures come from the sources
of CUDA's libraries and have not been measured. A run's report contains its measured memory.
"""

from __future__ import annotations

from typing import Literal

MIB = 2**20

CUDA_CONTEXT_BYTES = 500 * MIB
"""Bytes of the context, kernels and cuBLAS workspace on one GPU.

350 to 600 MiB, depending on GPU generation and driver. torch counts them neither as allocated nor
as reserved.
"""
CPU_IMPORT_BYTES = 420 * MIB
"""Resident bytes after importing torch 2.13 (CPU), transformers 5.24 and peft 0.21 on Linux."""
CPU_STEP_BYTES = 130 * MIB
"""Bytes added by the first step: kernels compiled at run time, thread stacks and workspaces."""
VARIED_SHAPE_KERNEL_BYTES = 80 * MIB
"""Bytes added if matrix products have many shapes; their kernels are cached up to a limit."""
EARLIER_STAGE_BYTES = 150 * MIB
"""Bytes that earlier stages of a run leave allocated but unused on a CPU.

Measured in an RLHF training: 850 MiB remained after all free memory had been released.
"""
FRAMEWORK_SLACK = {"cuda": 150 * MIB, "cpu": 220 * MIB}
"""Largest expected difference of the libraries' bytes on other machines or in other versions."""
FRAGMENTATION_SHARE = {"cuda": 0.03, "cpu": 0.05}
"""Usual share of an allocator's memory that is reserved but cannot be used."""


def framework_memory(device: Literal["cuda", "cpu"], *, running: bool = True) -> dict[str, int]:
    """Return the bytes of the libraries on a device, after the first step if ``running``."""
    if device == "cuda":
        return {"framework": CUDA_CONTEXT_BYTES}
    return {"framework": CPU_IMPORT_BYTES + (CPU_STEP_BYTES if running else 0)}
