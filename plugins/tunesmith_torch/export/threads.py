"""The number of threads of engines that do not read ``OMP_NUM_THREADS`` themselves."""

from __future__ import annotations

import os

__all__ = ["count_threads"]


def count_threads() -> int:
    """Return the number of threads to use: ``OMP_NUM_THREADS``, else 0, as many as cores."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() else 0
