"""Allocators, replayed: sequences computed by hand, and what holds for all sequences."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith_torch.memory_estimate.allocator_replay import ALIGN, HEADER, Cuda, Heap, replay
from tunesmith_torch.memory_estimate.timeline import Event

KIB, MIB = 2**10, 2**20


def _held(*steps: int) -> list[int]:
    """What torch's allocator holds after each step: a size to take, or minus a number to free."""
    allocator, found, count = Cuda(), [], 0
    for step in steps:
        if step > 0:
            count += 1
            allocator.malloc(count, step)
        else:
            allocator.free(-step)
        found.append(allocator.reserved)
    return found


def test_small_ones_share_a_segment_of_2_mib() -> None:
    assert _held(1, 512 * KIB, 1 * MIB) == [2 * MIB] * 3
    assert _held(1 * MIB, 1 * MIB, 1) == [2 * MIB, 2 * MIB, 4 * MIB]


def test_middling_ones_share_a_segment_of_20_mib() -> None:
    assert _held(6 * MIB, 6 * MIB, 6 * MIB) == [20 * MIB] * 3
    assert _held(6 * MIB, 6 * MIB, 9 * MIB) == [20 * MIB, 20 * MIB, 40 * MIB]


def test_large_ones_get_their_own_rounded_to_2_mib() -> None:
    assert _held(11 * MIB, 10 * MIB + 1) == [12 * MIB, 24 * MIB]


def test_what_was_freed_is_used_again() -> None:
    assert _held(30 * MIB, -1, 30 * MIB) == [30 * MIB] * 3
    assert _held(30 * MIB, -1, 12 * MIB, 18 * MIB) == [30 * MIB] * 4


def test_a_remainder_of_at_most_1_mib_is_lost_to_a_large_block() -> None:
    # 30 MiB taken by 29.5: the rest is not worth cutting off, so nothing is left to give.
    assert _held(30 * MIB, -1, 29 * MIB + 512 * KIB, 20 * MIB) == [30 * MIB] * 3 + [50 * MIB]


def test_such_a_remainder_counts_as_allocated() -> None:
    allocator = Cuda()
    allocator.malloc(1, 30 * MIB)
    allocator.free(1)
    allocator.malloc(2, 29 * MIB + 512 * KIB)
    assert allocator.allocated == 30 * MIB
    allocator.free(2)
    allocator.malloc(3, 28 * MIB)  # 2 MiB remain, which are cut off
    assert allocator.allocated == 28 * MIB


def test_neighbours_join_when_freed() -> None:
    # Two of 6 in a segment of 20, both freed with the rest: 18 fit again.
    assert _held(6 * MIB, 6 * MIB, -1, -2, 18 * MIB) == [20 * MIB] * 5


def test_a_gap_between_two_others_does_not_serve_a_larger_one() -> None:
    assert _held(6 * MIB, 6 * MIB, 8 * MIB, -2, 7 * MIB)[-1] == 40 * MIB


def test_the_smallest_fitting_block_is_taken() -> None:
    # Free: 30 and 40. 25 goes into the 30, so 40 still fits.
    assert _held(30 * MIB, 40 * MIB, -1, -2, 25 * MIB, 40 * MIB)[-1] == 70 * MIB


def test_the_heap_grows_at_its_end_and_uses_gaps() -> None:
    heap = Heap()
    block = -(-(1000 + HEADER) // ALIGN) * ALIGN
    for name in (1, 2, 3):
        heap.malloc(name, 1000)
    assert heap.reserved == 3 * block
    heap.free(2)
    heap.malloc(4, 1000)  # an aligned place is looked for with room to spare: the gap is too small
    assert heap.reserved == 4 * block
    heap.malloc(5, 500)  # a smaller one fits
    assert heap.reserved == 4 * block
    heap.free(4)
    heap.malloc(6, 3000)  # the free end becomes its beginning
    assert heap.reserved == 3 * block + -(-(3000 + HEADER) // ALIGN) * ALIGN


_sizes = st.one_of(st.integers(1, MIB), st.integers(MIB, 12 * MIB), st.integers(12 * MIB, 64 * MIB))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_sizes, st.integers(0, 40)), min_size=1, max_size=60), st.booleans())
def test_blocks_never_overlap_and_nothing_is_lost(plan: list[tuple[int, int]], gpu: bool) -> None:
    allocator: Cuda | Heap = Cuda() if gpu else Heap()
    live: dict[int, int] = {}
    for name, (size, gone) in enumerate(plan):
        allocator.malloc(name, size)
        live[name] = size
        if gone in live:
            allocator.free(gone)
            del live[gone]
        blocks = [b for _, b in allocator._live.values()] if gpu else [*allocator._live.values()]  # type: ignore[union-attr,misc]
        spans = sorted((block.start, block.start + block.size) for block in blocks)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        assert allocator.allocated == sum(block.size for block in blocks)
        assert allocator.reserved >= allocator.allocated >= sum(live.values())
    for name in live:
        allocator.free(name)
    assert allocator.allocated == 0
    before = allocator.reserved
    if gpu:
        allocator.malloc(10_000, plan[0][0])  # all is free: it fits
        assert allocator.reserved == before


def test_replay_tells_the_most_of_both() -> None:
    events = [Event(0, 30 * MIB), Event(1, 10), Event(0, -1), Event(1, -1), Event(2, 5 * MIB)]
    assert replay(events, Cuda()) == (30 * MIB + 512, 32 * MIB)
