"""Estimate memory from a trace: replay its allocations, and add memory outside the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tunesmith.estimates import Estimate, PhaseMemory
from tunesmith_torch.memory_estimate import analytic, constants, per_rank
from tunesmith_torch.memory_estimate.allocator_replay import (
    CudaAllocator,
    GlibcHeap,
    replay_allocations,
)
from tunesmith_torch.memory_estimate.setting import FP32_MOMENT_BYTES, EstimateSetting
from tunesmith_torch.memory_estimate.timeline import Timeline
from tunesmith_torch.memory_estimate.trace import trace_step

REPLAY_MARGIN = {"cuda": 0.02, "cpu": 0.03}
"""Share of memory that an allocator may hold beyond the replay.

It covers kernel workspaces that no table lists, and gaps that smaller micro-batches leave.
"""
STATIC_COMPONENTS = ("weights", "masters", "adapter", "optimizer", "gradients", "gathered")


def estimate(setting: EstimateSetting) -> Estimate:
    """Return the analytic estimate with the training phase replaced by a traced one."""
    by_arithmetic = analytic.estimate(setting)
    timeline = trace_step(setting).timeline
    if setting.processes > 1:
        timeline = shard_timeline(timeline, setting)
    train = memory_of_timeline(timeline, setting.device, setting.workload.length_factors)
    if setting.device == "cpu" and setting.workload.has_ragged_rows:
        train = add_varied_shape_memory(train)
    if setting.device == "cpu" and setting.options.gradient_checkpointing:
        train = _with_recomputation_gaps(train)
    if setting.device == "cpu" and setting.moment_bytes != FP32_MOMENT_BYTES:
        train = _with_widened_moments(train, setting)
    return replace(by_arithmetic, method="traced", memory={**by_arithmetic.memory, "train": train})


def shard_timeline(timeline: Timeline, setting: EstimateSetting) -> Timeline:
    """Convert the allocations of a single process to those of one process among several."""
    buffer = per_rank.sum_buffer_bytes(setting)
    if not setting.is_sharded:
        return timeline.with_block("temporaries", buffer, ".clip") if buffer else timeline
    shards = per_rank.ShardSizes(setting)
    for label in STATIC_COMPONENTS:
        timeline = timeline.scale_label(label, 1 / setting.processes)
    if setting.adapter is None:  # the parts of the weights are fp32 masters themselves
        timeline = timeline.scale_label("masters", 0)
        timeline = timeline.scale_label("weights", 4 / setting.compute_bytes)
    return timeline.with_block_of("gathered", shards.gathered_at)


def memory_of_timeline(
    timeline: Timeline, device: str, length_factors: tuple[float, float] = (1.0, 1.0)
) -> PhaseMemory:
    """Return the memory of a process with these allocations.

    ``length_factors`` bounds the rows' real lengths relative to the traced lengths.
    """
    gpu = device == "cuda"
    allocator = CudaAllocator() if gpu else GlibcHeap()
    allocated, reserved = replay_allocations((event for _, event in timeline), allocator)
    framework = constants.framework_memory("cuda" if gpu else "cpu")
    framework_bytes = sum(framework.values())
    parts = {name: size for name, size in sorted(timeline.peak_by_label().items()) if size}
    parts["fragmentation"] = reserved - sum(parts.values())
    shorter, longer = (factor - 1 for factor in length_factors)
    dynamic = sum(size for name, size in parts.items() if name not in STATIC_COMPONENTS)
    slack, margin = constants.FRAMEWORK_SLACK[device], REPLAY_MARGIN[device]
    return PhaseMemory(
        low=round(allocated * (1 - margin) + dynamic * shorter + framework_bytes - slack),
        expected=reserved + framework_bytes,
        high=round(reserved * (1 + margin) + dynamic * longer + framework_bytes + slack),
        components={**parts, **framework},
    )


VARIED_SHAPE_SHARES = (0.06, 0.25)
"""Usual and largest share of transient memory lost in gaps on a CPU if micro-batches differ.

Measured with rows of many lengths: 0 to 0.2 in six training runs.
"""


def add_varied_shape_memory(memory: PhaseMemory) -> PhaseMemory:
    """Add to the memory on a CPU what micro-batches of different sizes, or earlier stages, leave.

    Kernels are compiled for each size and stay in memory, between the blocks of the next sizes.
    """
    parts = memory.components
    kernels, (usual, worst) = constants.VARIED_SHAPE_KERNEL_BYTES, VARIED_SHAPE_SHARES
    transient = _transient_bytes(parts)
    changed = {
        "fragmentation": parts["fragmentation"] + round(usual * transient),
        "framework": parts["framework"] + kernels,
    }
    return PhaseMemory(
        low=memory.low,
        expected=memory.expected + round(usual * transient) + kernels,
        high=memory.high + round(worst * transient) + kernels,
        components={**parts, **changed},
    )


def _transient_bytes(parts: Mapping[str, int]) -> int:
    """Return the bytes that each micro-batch allocates and frees again."""
    return sum(parts.get(name, 0) for name in ("activations", "temporaries", "logits"))


def _with_recomputation_gaps(memory: PhaseMemory) -> PhaseMemory:
    """Adjust the memory on a CPU for recomputed activations.

    A layer's temporaries lie between the kept inputs of layers. glibc reuses such gaps less well
    than the replay does. Usually half of the transient memory is lost; in the worst case, 1.5 times
    the transient memory.
    """
    parts = memory.components
    transient = _transient_bytes(parts)
    return PhaseMemory(
        low=memory.low,
        expected=memory.expected + transient // 2,
        high=memory.high + transient * 3 // 2,
        components={**parts, "fragmentation": parts["fragmentation"] + transient // 2},
    )


WIDENED_MOMENT_BYTES = 5 * 4
"""Temporary bytes per weight while 8-bit AdamW updates a matrix on a CPU.

These are five fp32 tensors: bitsandbytes' CPU kernel widens both moments, scales the gradient, and
computes a root and a quotient of the second moment. A GPU kernel does all of this in registers.
"""


def _with_widened_moments(memory: PhaseMemory, setting: EstimateSetting) -> PhaseMemory:
    """Adjust the memory for the fp32 moments of the largest matrix in 8-bit AdamW.

    Weights, gradients and moments fill the heap at that moment, so usually no gap holds the widened
    moments. At worst, the gaps they leave are lost too.
    """
    shape = setting.shape
    largest = max(
        shape.embedding_weights, *(m.out_features * m.in_features for m in shape.linear_layers)
    )
    if setting.adapter is not None:
        largest = setting.adapter.rank * max(
            max(m.out_features, m.in_features) for m in shape.linear_layers
        )
    widened = WIDENED_MOMENT_BYTES * largest
    parts = memory.components
    return PhaseMemory(
        low=memory.low,
        expected=memory.expected + widened,
        high=memory.high + widened * 3 // 2,
        components={**parts, "temporaries": parts.get("temporaries", 0) + widened},
    )
