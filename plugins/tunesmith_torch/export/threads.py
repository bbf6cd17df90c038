"""The thread count for engines that do not read ``OMP_NUM_THREADS`` themselves."""

from __future__ import annotations

import os

__all__ = ["count_threads"]


def count_threads() -> int:
    """Return ``OMP_NUM_THREADS``, or 0, which means one thread per core."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() else 0
