"""Memory besides tensors: libraries, the device's context, and losses of the allocators.

The CPU's numbers were measured once, with the versions named; those of CUDA are known from its
libraries' sources and were not measured. A run's report contains what was measured.
"""

from __future__ import annotations

from typing import Literal

MIB = 2**20

CUDA_CONTEXT_BYTES = 500 * MIB
"""Context, kernels and the cuBLAS workspace on one GPU: 350 to 600 MiB by generation and driver.
torch counts it neither as allocated nor as reserved."""
CPU_IMPORT_BYTES = 420 * MIB
"""Resident after importing torch 2.13 (CPU), transformers 5.24 and peft 0.21 on Linux."""
CPU_STEP_BYTES = 130 * MIB
"""Added by the first step: kernels compiled at run time, threads' stacks and their workspaces."""
VARIED_SHAPE_KERNEL_BYTES = 80 * MIB
"""Added if matrix products come in many shapes: kernels are cached up to a limit."""
EARLIER_STAGE_BYTES = 150 * MIB
"""Added on a CPU after other stages were trained in the process: memory left between live blocks.
Read off an RLHF training, in which 850 MiB stayed after all free memory had been released."""
FRAMEWORK_SLACK = {"cuda": 150 * MIB, "cpu": 220 * MIB}
"""Largest expected difference of the libraries' memory on other machines or with other versions."""
FRAGMENTATION_SHARE = {"cuda": 0.03, "cpu": 0.05}
"""Share of its memory that an allocator usually holds and cannot use."""


def framework_memory(device: Literal["cuda", "cpu"], *, running: bool = True) -> dict[str, int]:
    """Return the bytes of the libraries on a kind of device; ``running``: after the first step."""
    if device == "cuda":
        return {"framework": CUDA_CONTEXT_BYTES}
    return {"framework": CPU_IMPORT_BYTES + (CPU_STEP_BYTES if running else 0)}
