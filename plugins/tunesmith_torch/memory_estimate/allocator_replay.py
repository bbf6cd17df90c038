"""Replay allocations in a model of an allocator, to predict the memory that a process holds.

Allocators cut blocks from larger segments, join free neighbors, and return nothing to the system
during a step. So a process holds more memory than its tensors take::

    malloc A, B      | A 6 MiB | B 6 MiB |  free 8 MiB  |     20 MiB held, 12 allocated
    free A           |  free 6 | B 6 MiB |  free 8 MiB  |     14 MiB are free, but
    malloc C         |  free 6 | B 6 MiB |  free 8 MiB  |     C of 9 MiB fits nowhere:
                     | C 9 MiB |      free 11 MiB       |     40 MiB held, 15 allocated

``CudaAllocator`` follows torch's caching allocator (c10/cuda/CUDACachingAllocator.cpp):

- Sizes are rounded up to 512 bytes.
- Blocks of up to 1 MiB are cut from segments of 2 MiB, and blocks below 10 MiB from segments of 20
  MiB. Each larger block gets its own segment, rounded up to 2 MiB.
- The smallest free block that fits is taken, and split unless the rest would be too small.

``GlibcHeap`` models glibc's malloc without mmap and without trimming: one segment that grows at its
end.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from tunesmith_torch.memory_estimate.timeline import AllocationEvent

KIB, MIB = 2**10, 2**20
SMALL_BLOCK, SMALL_SEGMENT = MIB, 2 * MIB
LARGE_BLOCK, LARGE_SEGMENT, LARGE_SEGMENT_ROUNDING = 10 * MIB, 20 * MIB, 2 * MIB
BLOCK_ROUNDING = 512
CPU_ALIGNMENT, MALLOC_HEADER = 64, 16
"""torch asks for 64-byte alignment on CPUs; glibc keeps 16 bytes before each block."""
ALIGNMENT_SEARCH = CPU_ALIGNMENT + 32
"""Extra bytes that posix_memalign requires in a gap, to find an aligned address inside.

The extra bytes are freed afterwards, but a gap of exactly a block's size cannot hold the block.
"""


@dataclass(slots=True)
class _Block:
    """A part of a segment, linked to its neighbors."""

    start: int
    size: int
    previous: _Block | None = None
    following: _Block | None = None
    free: bool = False


@dataclass
class _Pool:
    """Free blocks, sorted by size and then by address."""

    free: list[tuple[int, int]] = field(default_factory=list)
    by_start: dict[int, _Block] = field(default_factory=dict)

    def take_smallest_fit(self, size: int) -> _Block | None:
        """Remove and return the smallest free block of at least this size, or None."""
        index = bisect_left(self.free, (size, -1))
        if index == len(self.free):
            return None
        _, start = self.free.pop(index)
        block = self.by_start[start]
        block.free = False
        return block

    def split(self, block: _Block, size: int) -> None:
        """Cut a block down to ``size``, and make the rest a free block."""
        rest = _Block(block.start + size, block.size - size, block, block.following)
        if rest.following:
            rest.following.previous = rest
        block.following, block.size = rest, size
        self.by_start[rest.start] = rest
        self._insert(rest)

    def add_free(self, block: _Block) -> None:
        """Add a block to the free blocks, merged with its free neighbors."""
        for other in (block.previous, block.following):
            if other is not None and other.free:
                self.remove(other)
                first, second = (other, block) if other is block.previous else (block, other)
                first.size += second.size
                first.following = second.following
                if second.following:
                    second.following.previous = first
                del self.by_start[second.start]
                block = first
        self._insert(block)

    def _insert(self, block: _Block) -> None:
        block.free = True
        insort(self.free, (block.size, block.start))

    def remove(self, block: _Block) -> None:
        """Remove a block from the free blocks."""
        del self.free[bisect_left(self.free, (block.size, block.start))]
        block.free = False


@dataclass
class CudaAllocator:
    """A model of torch's caching allocator on one GPU."""

    reserved: int = 0
    """Bytes of all segments."""
    allocated: int = 0
    """Bytes of the blocks in use."""
    _end: int = 0
    _small: _Pool = field(default_factory=_Pool)
    _large: _Pool = field(default_factory=_Pool)
    _live: dict[int, tuple[_Pool, _Block]] = field(default_factory=dict)

    def malloc(self, block_id: int, size: int) -> None:
        """Allocate ``size`` bytes as the block ``block_id``, a number chosen by the caller."""
        if size == 0:
            return
        size = -(-size // BLOCK_ROUNDING) * BLOCK_ROUNDING
        pool = self._small if size <= SMALL_BLOCK else self._large
        block = pool.take_smallest_fit(size)
        if block is None:
            block = _Block(self._end, _segment_size(size))
            pool.by_start[block.start] = block
            self._end += block.size + BLOCK_ROUNDING  # a gap, so segments never merge
            self.reserved += block.size
        rest = block.size - size
        # A small rest of a large block stays part of it and counts as allocated.
        if rest >= BLOCK_ROUNDING if pool is self._small else rest > SMALL_BLOCK:
            pool.split(block, size)
        self.allocated += block.size
        self._live[block_id] = pool, block

    def free(self, block_id: int) -> None:
        """Free the block ``block_id``, if it was allocated."""
        if block_id not in self._live:
            return
        pool, block = self._live.pop(block_id)
        self.allocated -= block.size
        pool.add_free(block)


@dataclass
class GlibcHeap:
    """A model of glibc's heap, configured without mmap and without trimming."""

    reserved: int = 0
    """Bytes of the heap."""
    allocated: int = 0
    """Bytes of the blocks in use."""
    _pool: _Pool = field(default_factory=_Pool)
    _last: _Block | None = None
    _live: dict[int, _Block] = field(default_factory=dict)

    def malloc(self, block_id: int, size: int) -> None:
        """Allocate ``size`` bytes as the block ``block_id``, a number chosen by the caller."""
        size = -(-(size + MALLOC_HEADER) // CPU_ALIGNMENT) * CPU_ALIGNMENT
        block = self._pool.take_smallest_fit(size + ALIGNMENT_SEARCH)
        if block is None:
            block = self._grow(size)
        if block.size - size >= CPU_ALIGNMENT:
            is_last = block is self._last
            self._pool.split(block, size)
            self._last = block.following if is_last else self._last
        self.allocated += block.size
        self._live[block_id] = block

    def free(self, block_id: int) -> None:
        """Free the block ``block_id``."""
        block = self._live.pop(block_id)
        self.allocated -= block.size
        self._pool.add_free(block)
        # The last block may have been merged into the one before it.
        while self._last is not None and self._last.start not in self._pool.by_start:
            self._last = self._last.previous

    def _grow(self, size: int) -> _Block:
        """Return a new last block; if the last block is free, extend it instead."""
        last = self._last
        if last is not None and last.free:
            self._pool.remove(last)
            self.reserved += size - last.size
            last.size = size
            return last
        block = _Block(self.reserved, size, last)
        if last is not None:
            last.following = block
        self._pool.by_start[block.start] = block
        self.reserved += size
        self._last = block
        return block


def _segment_size(size: int) -> int:
    if size <= SMALL_BLOCK:
        return SMALL_SEGMENT
    if size < LARGE_BLOCK:
        return LARGE_SEGMENT
    return -(-size // LARGE_SEGMENT_ROUNDING) * LARGE_SEGMENT_ROUNDING


def replay_allocations(
    events: Iterable[AllocationEvent], allocator: CudaAllocator | GlibcHeap
) -> tuple[int, int]:
    """Run all events through an allocator.

    Returns:
        The peak of the allocated bytes, and the peak of the reserved bytes that the process holds.
    """
    allocated = reserved = 0
    for event in events:
        if event.size >= 0:
            allocator.malloc(event.block, event.size)
            allocated = max(allocated, allocator.allocated)
            reserved = max(reserved, allocator.reserved)
        else:
            allocator.free(event.block)
    return allocated, reserved
