"""Replayed allocators: sequences computed by hand, and properties of random sequences."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith_torch.memory_estimate.allocator_replay import (
    CPU_ALIGNMENT,
    MALLOC_HEADER,
    CudaAllocator,
    GlibcHeap,
    replay_allocations,
)
from tunesmith_torch.memory_estimate.timeline import AllocationEvent

KIB, MIB = 2**10, 2**20


def _held(*steps: int) -> list[int]:
    """Return the bytes that torch's allocator holds after each step.

    A positive step is a size to allocate, a negative one the number of an allocation to free.
    """
    allocator, reserved, count = CudaAllocator(), [], 0
    for step in steps:
        if step > 0:
            count += 1
            allocator.malloc(count, step)
        else:
            allocator.free(-step)
        reserved.append(allocator.reserved)
    return reserved


def test_small_blocks_share_a_segment_of_2_mib() -> None:
    assert _held(1, 512 * KIB, 1 * MIB) == [2 * MIB] * 3
    assert _held(1 * MIB, 1 * MIB, 1) == [2 * MIB, 2 * MIB, 4 * MIB]


def test_medium_blocks_share_a_segment_of_20_mib() -> None:
    assert _held(6 * MIB, 6 * MIB, 6 * MIB) == [20 * MIB] * 3
    assert _held(6 * MIB, 6 * MIB, 9 * MIB) == [20 * MIB, 20 * MIB, 40 * MIB]


def test_large_blocks_get_a_segment_rounded_to_2_mib() -> None:
    assert _held(11 * MIB, 10 * MIB + 1) == [12 * MIB, 24 * MIB]


def test_freed_memory_is_used_again() -> None:
    assert _held(30 * MIB, -1, 30 * MIB) == [30 * MIB] * 3
    assert _held(30 * MIB, -1, 12 * MIB, 18 * MIB) == [30 * MIB] * 4


def test_a_remainder_of_at_most_1_mib_is_lost_to_a_large_block() -> None:
    # 29.5 MiB take the 30: the rest is too small to be split off, so nothing is free.
    assert _held(30 * MIB, -1, 29 * MIB + 512 * KIB, 20 * MIB) == [30 * MIB] * 3 + [50 * MIB]


def test_a_remainder_of_at_most_1_mib_counts_as_allocated() -> None:
    allocator = CudaAllocator()
    allocator.malloc(1, 30 * MIB)
    allocator.free(1)
    allocator.malloc(2, 29 * MIB + 512 * KIB)
    assert allocator.allocated == 30 * MIB
    allocator.free(2)
    allocator.malloc(3, 28 * MIB)  # the remaining 2 MiB are split off
    assert allocator.allocated == 28 * MIB


def test_neighbors_join_when_freed() -> None:
    # Two blocks of 6 in a segment of 20: with both free, 18 fit.
    assert _held(6 * MIB, 6 * MIB, -1, -2, 18 * MIB) == [20 * MIB] * 5


def test_a_gap_between_two_blocks_cannot_hold_a_larger_one() -> None:
    assert _held(6 * MIB, 6 * MIB, 8 * MIB, -2, 7 * MIB)[-1] == 40 * MIB


def test_the_smallest_fitting_block_is_taken() -> None:
    # Free: 30 and 40. 25 goes into the 30, so 40 still fits.
    assert _held(30 * MIB, 40 * MIB, -1, -2, 25 * MIB, 40 * MIB)[-1] == 70 * MIB


def test_the_heap_grows_at_its_end_and_uses_gaps() -> None:
    heap = GlibcHeap()
    block = -(-(1000 + MALLOC_HEADER) // CPU_ALIGNMENT) * CPU_ALIGNMENT
    for name in (1, 2, 3):
        heap.malloc(name, 1000)
    assert heap.reserved == 3 * block
    heap.free(2)
    heap.malloc(4, 1000)  # the search for an aligned address needs more: the gap is too small
    assert heap.reserved == 4 * block
    heap.malloc(5, 500)  # a smaller one fits
    assert heap.reserved == 4 * block
    heap.free(4)
    heap.malloc(6, 3000)  # extends the free block at the end
    assert heap.reserved == 3 * block + -(-(3000 + MALLOC_HEADER) // CPU_ALIGNMENT) * CPU_ALIGNMENT


_sizes = st.one_of(st.integers(1, MIB), st.integers(MIB, 12 * MIB), st.integers(12 * MIB, 64 * MIB))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_sizes, st.integers(0, 40)), min_size=1, max_size=60), st.booleans())
def test_blocks_never_overlap_and_nothing_is_lost(
    allocations: list[tuple[int, int]], gpu: bool
) -> None:
    allocator: CudaAllocator | GlibcHeap = CudaAllocator() if gpu else GlibcHeap()
    live: dict[int, int] = {}
    for block_id, (size, freed) in enumerate(allocations):
        allocator.malloc(block_id, size)
        live[block_id] = size
        if freed in live:
            allocator.free(freed)
            del live[freed]
        blocks = [b for _, b in allocator._live.values()] if gpu else [*allocator._live.values()]  # type: ignore[union-attr,misc]
        intervals = sorted((block.start, block.start + block.size) for block in blocks)
        assert all(a[1] <= b[0] for a, b in pairwise(intervals))
        assert allocator.allocated == sum(block.size for block in blocks)
        assert allocator.reserved >= allocator.allocated >= sum(live.values())
    for block_id in live:
        allocator.free(block_id)
    assert allocator.allocated == 0
    before = allocator.reserved
    if gpu:
        allocator.malloc(10_000, allocations[0][0])  # all is free: it fits
        assert allocator.reserved == before


def test_replay_returns_the_peaks_of_allocated_and_reserved() -> None:
    events = [
        AllocationEvent(0, 30 * MIB),
        AllocationEvent(1, 10),
        AllocationEvent(0, -1),
        AllocationEvent(1, -1),
        AllocationEvent(2, 5 * MIB),
    ]
    assert replay_allocations(events, CudaAllocator()) == (30 * MIB + 512, 32 * MIB)
