"""An estimate from a trace: what the allocator holds at the peak of a step, and what for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tunesmith.contracts import Estimate, Memory
from tunesmith_torch.memory_estimate import analytic, constants
from tunesmith_torch.memory_estimate.allocator_replay import Cuda, Heap, replay
from tunesmith_torch.memory_estimate.setting import FP32_MOMENTS, Setting
from tunesmith_torch.memory_estimate.timeline import Timeline
from tunesmith_torch.memory_estimate.trace import trace
from tunesmith_torch.options.training import LoraOptions

ROOM = {"cuda": 0.02, "cpu": 0.03}
"""How much more than in the replay an allocator may hold: kernels' workspaces that no table has,
and micro-batches before the largest one, which leave other gaps."""
FIXED = ("weights", "masters", "adapter", "optimizer", "gradients")


def estimate(setting: Setting) -> Estimate:
    """The analytic estimate with the training step's memory as traced."""
    rough = analytic.estimate(setting)
    train = of(trace(setting).timeline, setting.device, setting.load.spread)
    if setting.device == "cpu" and setting.load.ragged:
        train = with_other_shapes(train)
    if setting.device == "cpu" and setting.options.gradient_checkpointing:
        train = _with_gaps(train)
    if setting.device == "cpu" and setting.moment_bytes != FP32_MOMENTS:
        train = _with_wide_means(train, setting)
    return replace(rough, method="traced", memory={**rough.memory, "train": train})


def of(timeline: Timeline, device: str, spread: tuple[float, float] = (1.0, 1.0)) -> Memory:
    """The memory of a process that runs through the timeline.

    ``spread``: how far rows may be from those that were traced.
    """
    gpu = device == "cuda"
    allocator = Cuda() if gpu else Heap()
    allocated, held = replay((event for _, event in timeline), allocator)
    parts = timeline.at_peak()
    around = constants.libraries("cuda" if gpu else "cpu")
    libraries = sum(around.values())
    parts = {name: size for name, size in sorted(parts.items()) if size}
    parts["fragmentation"] = held - sum(parts.values())
    low_rows, high_rows = (factor - 1 for factor in spread)
    moving = sum(size for name, size in parts.items() if name not in FIXED)
    slack, room = constants.SLACK[device], ROOM[device]
    return Memory(
        low=round(allocated * (1 - room) + moving * low_rows + libraries - slack),
        expected=held + libraries,
        high=round(held * (1 + room) + moving * high_rows + libraries + slack),
        components={**parts, **around},
    )


OTHER_SHAPES = (0.06, 0.25)
"""Share of what changes hands that gaps of other sizes cost on a CPU: as a rule, and at worst.

Seen where rows were of many lengths: 0 to 0.2 of it in six trainings.
"""


def with_other_shapes(memory: Memory) -> Memory:
    """The same where micro-batches differ in size, or several trainings share a process, on a CPU.

    Each brings kernels of its own, which stay, and they lie between what the next one needs.
    """
    parts = memory.components
    kernels, (usual, worst) = constants.OTHER_KERNELS, OTHER_SHAPES
    moving = _moving(parts)
    more = {
        "fragmentation": parts["fragmentation"] + round(usual * moving),
        "framework": parts["framework"] + kernels,
    }
    return Memory(
        low=memory.low,
        expected=memory.expected + round(usual * moving) + kernels,
        high=memory.high + round(worst * moving) + kernels,
        components={**parts, **more},
    )


def _moving(parts: Mapping[str, int]) -> int:
    """Bytes of what comes and goes with every micro-batch."""
    return sum(parts.get(name, 0) for name in ("activations", "temporaries", "logits"))


def _with_gaps(memory: Memory) -> Memory:
    """The same where layers are computed again on a CPU.

    What a layer needs for a moment lies between inputs that are kept, and glibc finds less room in
    such gaps than the replay does: half of what changes hands may be lost there, at worst more than
    all of it.
    """
    parts = memory.components
    moving = _moving(parts)
    more = {**parts, "fragmentation": parts["fragmentation"] + moving // 2}
    return Memory(
        low=memory.low,
        expected=memory.expected + moving // 2,
        high=memory.high + moving * 3 // 2,
        components=more,
    )


WIDENED = 5 * 4
"""Bytes for each number of a matrix that AdamW in 8 bits takes for a moment on a CPU.

bitsandbytes' kernel for CPUs widens both means to fp32, scales the gradient, and makes a root and a
quotient of the second mean; a GPU's does all of it in registers.
"""


def _with_wide_means(memory: Memory, setting: Setting) -> Memory:
    """The same with the largest matrix's means widened.

    They come when weights, gradients and means fill the heap, and as a rule find no room in it; at
    worst their gaps are lost once more.
    """
    shape, options = setting.shape, setting.options
    largest = max(shape.table, *(m.outputs * m.inputs for m in shape.matrices))
    if isinstance(options, LoraOptions):
        largest = options.rank * max(max(m.outputs, m.inputs) for m in shape.matrices)
    more = WIDENED * largest
    parts = memory.components
    return Memory(
        low=memory.low,
        expected=memory.expected + more,
        high=memory.high + more * 3 // 2,
        components={**parts, "temporaries": parts.get("temporaries", 0) + more},
    )
