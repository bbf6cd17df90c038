"""The thread count for engines that do not read ``OMP_NUM_THREADS`` themselves."""

from __future__ import annotations

import os

__all__ = ["count_threads"]


def count_threads() -> int:
    """Return ``OMP_NUM_THREADS``; 0, which means one thread per core, if it is not a number."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() else 0
