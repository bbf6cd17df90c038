"""Estimate from a trace: replay the step's allocations, and add what the replay does not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tunesmith.estimates import Estimate, PhaseMemory
from tunesmith_torch.memory_estimate import analytic, constants, per_rank
from tunesmith_torch.memory_estimate.allocator_replay import CudaAllocator, GlibcHeap, replay
from tunesmith_torch.memory_estimate.setting import FP32_MOMENT_BYTES, EstimateSetting
from tunesmith_torch.memory_estimate.timeline import Timeline
from tunesmith_torch.memory_estimate.trace import trace_step

REPLAY_MARGIN = {"cuda": 0.02, "cpu": 0.03}
"""Share that an allocator may hold in addition to the replay: kernels' workspaces that no table
has, and gaps that smaller micro-batches leave before the largest one."""
STATIC_COMPONENTS = ("weights", "masters", "adapter", "optimizer", "gradients", "gathered")


def estimate(setting: EstimateSetting) -> Estimate:
    """Return the analytic estimate with the training phase replaced by the traced one."""
    by_arithmetic = analytic.estimate(setting)
    timeline = trace_step(setting).timeline
    if setting.processes > 1:
        timeline = of_one_rank(timeline, setting)
    train = memory_of_timeline(timeline, setting.device, setting.workload.length_factors)
    if setting.device == "cpu" and setting.workload.has_ragged_rows:
        train = with_varied_shapes(train)
    if setting.device == "cpu" and setting.options.gradient_checkpointing:
        train = _with_recomputation_gaps(train)
    if setting.device == "cpu" and setting.moment_bytes != FP32_MOMENT_BYTES:
        train = _with_widened_moments(train, setting)
    return replace(by_arithmetic, method="traced", memory={**by_arithmetic.memory, "train": train})


def of_one_rank(timeline: Timeline, setting: EstimateSetting) -> Timeline:
    """Return the allocations of one of several processes, from those of a single one."""
    buffer = per_rank.sum_buffer_bytes(setting)
    if not setting.is_sharded:
        return timeline.with_block("temporaries", buffer, ".clip") if buffer else timeline
    shards = per_rank.Shards(setting)
    for label in STATIC_COMPONENTS:
        timeline = timeline.scale_label(label, 1 / setting.processes)
    if setting.adapter is None:  # the parts are fp32 masters themselves
        timeline = timeline.scale_label("masters", 0)
        timeline = timeline.scale_label("weights", 4 / setting.compute_bytes)
    return timeline.with_block_of("gathered", shards.gathered_at)


def memory_of_timeline(
    timeline: Timeline, device: str, length_factors: tuple[float, float] = (1.0, 1.0)
) -> PhaseMemory:
    """Return the memory of a process with these allocations.

    ``length_factors``: bounds of the rows' real lengths, relative to those that were traced.
    """
    gpu = device == "cuda"
    allocator = CudaAllocator() if gpu else GlibcHeap()
    allocated, reserved = replay((event for _, event in timeline), allocator)
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
"""Share of transient memory lost in gaps on a CPU if micro-batches differ: usual and worst.

Measured with rows of many lengths: 0 to 0.2 in six trainings.
"""


def with_varied_shapes(memory: PhaseMemory) -> PhaseMemory:
    """Return the memory on a CPU if micro-batches differ in size, or trainings share a process.

    Each size has kernels compiled for it, which stay between the blocks that the next one needs.
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
    """Return the bytes that every micro-batch allocates and frees."""
    return sum(parts.get(name, 0) for name in ("activations", "temporaries", "logits"))


def _with_recomputation_gaps(memory: PhaseMemory) -> PhaseMemory:
    """Return the memory on a CPU if activations are recomputed.

    A layer's temporaries lie between inputs that are kept, and glibc uses such gaps less well than
    the replay: half of the transient memory may be lost, at worst more than all of it.
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
"""Temporary bytes for each number of a matrix that 8-bit AdamW updates on a CPU.

bitsandbytes' kernel for CPUs widens both moments to fp32, scales the gradient, and computes a root
and a quotient of the second moment; a GPU's kernel does all of it in registers.
"""


def _with_widened_moments(memory: PhaseMemory, setting: EstimateSetting) -> PhaseMemory:
    """Return the memory with the largest matrix's moments widened to fp32.

    They are allocated while weights, gradients and moments fill the heap, so usually no gap holds
    them; at worst the gaps that they leave are lost too.
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
