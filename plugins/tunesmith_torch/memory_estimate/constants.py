"""What is there beside tensors: libraries, the device's context, and what allocators round up.

The CPU's numbers were measured once, with the versions named; those of CUDA are known from its
libraries' sources and were not measured. A run's report says what was.
"""

from __future__ import annotations

from typing import Literal

MIB = 2**20

CUDA_CONTEXT = 500 * MIB
"""Context, kernels and the cuBLAS workspace on one GPU: 350 to 600 MiB by generation and driver.
It is outside of what torch counts as allocated or reserved."""
CPU_IMPORTS = 420 * MIB
"""Resident after importing torch 2.13 (CPU), transformers 5.24 and peft 0.21 on Linux."""
CPU_RUNNING = 130 * MIB
"""More once a step has run: kernels made at run time, threads' stacks and their workspaces."""
OTHER_KERNELS = 80 * MIB
"""More where products come in many shapes: as many kernels are kept as there is room for."""
EARLIER_STAGES = 150 * MIB
"""More on a CPU once other stages have been trained in the process: what they leave between blocks.
Read off an RLHF training, in which 850 MiB stayed when all that was free had been given back."""
SLACK = {"cuda": 150 * MIB, "cpu": 220 * MIB}
"""How far what libraries take may be from this, on another machine or with other versions."""
FRAGMENTATION = {"cuda": 0.03, "cpu": 0.05}
"""Share of memory that an allocator holds and cannot give out, as a rule."""


def libraries(device: Literal["cuda", "cpu"], *, running: bool = True) -> dict[str, int]:
    """Bytes that libraries take on this kind of device; ``running``: once a step has run."""
    if device == "cuda":
        return {"framework": CUDA_CONTEXT}
    return {"framework": CPU_IMPORTS + (CPU_RUNNING if running else 0)}
