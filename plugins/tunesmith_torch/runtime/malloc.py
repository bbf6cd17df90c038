"""Settings of glibc's allocator: keep freed memory for the next step, or return it to the system.

By default glibc maps every block above a threshold (at most 32 MiB) from the system and unmaps it
when it is freed. A training step allocates the same large blocks as the one before, so in each step
the system maps, clears and pages in hundreds of megabytes, 7 to 11 % of the time of full
fine-tuning on a CPU. :func:`keep_freed_memory` makes glibc serve such blocks from its heap and keep
the end of the heap, so memory returns to the system later.

On other systems and C libraries these functions change nothing.
"""

from __future__ import annotations

import ctypes
import gc
import platform
from functools import cache

__all__ = ["keep_freed_memory", "release_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of ``malloc.h``, mallopt(3)."""
_MMAP_THRESHOLD_BYTES = 2**30
_TRIM_THRESHOLD_BYTES = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Make this process reuse the memory that it frees; return True if that worked.

    The first call sets it for the process; later calls return the same result.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)) and bool(
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    )


def trim_heap() -> bool:
    """Return free memory to the system, for example between two stages; True if that worked.

    glibc returns free pages anywhere in the heap, not only at its end.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim = ctypes.CDLL(None).malloc_trim
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return bool(trim(0))


def release_memory() -> None:
    """Free models that are no longer used: their reference cycles need the garbage collector."""
    gc.collect()
    trim_heap()
