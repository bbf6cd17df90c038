"""Allocators, replayed: what a sequence of allocations makes a process hold.

Tensors are served from larger blocks that are split, joined again with their neighbours, and never
given back while a step runs. So a process holds more than its tensors: here is how much.

``cuda`` follows torch's caching allocator (c10/cuda/CUDACachingAllocator.cpp): sizes are rounded to
512 bytes; up to 1 MiB are cut from segments of 2 MiB, up to 10 MiB from segments of 20 MiB, larger
ones get a segment of their own, rounded to 2 MiB; the smallest free block that fits is taken, and
split if what remains is worth it. ``heap`` is glibc's malloc where nothing is mapped apart and
nothing is trimmed: one segment that grows at its end.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from tunesmith_torch.memory_estimate.timeline import Event

KIB, MIB = 2**10, 2**20
SMALL, SMALL_SEGMENT = MIB, 2 * MIB
LARGE, LARGE_SEGMENT, ROUND_LARGE = 10 * MIB, 20 * MIB, 2 * MIB
ROUND = 512
ALIGN, HEADER = 64, 16
"""torch asks for 64-byte alignment on CPUs; glibc keeps 16 bytes before each block."""
SEARCHED = ALIGN + 32
"""posix_memalign looks for so much more than is wanted, to have an aligned place in it, and gives
the rest back: a gap that held a block of the very size does not serve."""


@dataclass(slots=True)
class _Block:
    start: int
    size: int
    before: _Block | None = None
    after: _Block | None = None
    free: bool = False


@dataclass
class _Pool:
    """Free blocks by size, then address."""

    free: list[tuple[int, int]] = field(default_factory=list)
    by_start: dict[int, _Block] = field(default_factory=dict)

    def take(self, size: int) -> _Block | None:
        """The smallest free block of at least this size."""
        at = bisect_left(self.free, (size, -1))
        if at == len(self.free):
            return None
        _, start = self.free.pop(at)
        block = self.by_start[start]
        block.free = False
        return block

    def split(self, block: _Block, size: int) -> None:
        """Cut off what a block has beyond ``size``, and make it free."""
        rest = _Block(block.start + size, block.size - size, block, block.after)
        if rest.after:
            rest.after.before = rest
        block.after, block.size = rest, size
        self.by_start[rest.start] = rest
        self._release(rest)

    def give(self, block: _Block) -> None:
        """Free a block, joined with free neighbours."""
        for other in (block.before, block.after):
            if other is not None and other.free:
                self._remove(other)
                first, second = (other, block) if other is block.before else (block, other)
                first.size += second.size
                first.after = second.after
                if second.after:
                    second.after.before = first
                del self.by_start[second.start]
                block = first
        self._release(block)

    def _release(self, block: _Block) -> None:
        block.free = True
        insort(self.free, (block.size, block.start))

    def _remove(self, block: _Block) -> None:
        del self.free[bisect_left(self.free, (block.size, block.start))]
        block.free = False


@dataclass
class Cuda:
    """torch's caching allocator on one GPU."""

    reserved: int = 0
    allocated: int = 0
    _end: int = 0
    _small: _Pool = field(default_factory=_Pool)
    _large: _Pool = field(default_factory=_Pool)
    _live: dict[int, tuple[_Pool, _Block]] = field(default_factory=dict)

    def malloc(self, name: int, size: int) -> None:
        """Allocate ``size`` bytes under a name."""
        if size == 0:
            return
        size = -(-size // ROUND) * ROUND
        pool = self._small if size <= SMALL else self._large
        block = pool.take(size)
        if block is None:
            block = _Block(self._end, _segment(size))
            pool.by_start[block.start] = block
            self._end += block.size + ROUND  # segments do not touch
            self.reserved += block.size
        rest = block.size - size
        if rest >= ROUND if pool is self._small else rest > SMALL:
            pool.split(block, size)
        self.allocated += block.size
        self._live[name] = pool, block

    def free(self, name: int) -> None:
        """Give a block back."""
        if name not in self._live:
            return
        pool, block = self._live.pop(name)
        self.allocated -= block.size
        pool.give(block)


@dataclass
class Heap:
    """glibc's heap, told to map nothing apart and to trim nothing."""

    reserved: int = 0
    allocated: int = 0
    _pool: _Pool = field(default_factory=_Pool)
    _last: _Block | None = None
    _live: dict[int, _Block] = field(default_factory=dict)

    def malloc(self, name: int, size: int) -> None:
        """Allocate ``size`` bytes under a name."""
        size = -(-(size + HEADER) // ALIGN) * ALIGN
        block = self._pool.take(size + SEARCHED)
        if block is None:
            block = self._grown(size)
        if block.size - size >= ALIGN:
            tail = block is self._last
            self._pool.split(block, size)
            self._last = block.after if tail else self._last
        self.allocated += block.size
        self._live[name] = block

    def free(self, name: int) -> None:
        """Give a block back to the heap."""
        block = self._live.pop(name)
        self.allocated -= block.size
        self._pool.give(block)
        # Joining moves the end into the block before it.
        while self._last is not None and self._last.start not in self._pool.by_start:
            self._last = self._last.before

    def _grown(self, size: int) -> _Block:
        """A new last block; a free one at the end becomes its beginning."""
        last = self._last
        if last is not None and last.free:
            self._pool._remove(last)
            self.reserved += size - last.size
            last.size = size
            return last
        block = _Block(self.reserved, size, last)
        if last is not None:
            last.after = block
        self._pool.by_start[block.start] = block
        self.reserved += size
        self._last = block
        return block


def _segment(size: int) -> int:
    if size <= SMALL:
        return SMALL_SEGMENT
    if size < LARGE:
        return LARGE_SEGMENT
    return -(-size // ROUND_LARGE) * ROUND_LARGE


def replay(events: Iterable[Event], allocator: Cuda | Heap) -> tuple[int, int]:
    """Run all events; the most that was allocated, and the most that was held, in bytes."""
    allocated = held = 0
    for event in events:
        if event.size >= 0:
            allocator.malloc(event.block, event.size)
            allocated = max(allocated, allocator.allocated)
            held = max(held, allocator.reserved)
        else:
            allocator.free(event.block)
    return allocated, held
