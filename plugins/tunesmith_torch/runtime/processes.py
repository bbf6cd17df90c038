"""Run independent computations in parallel, in forked processes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tunesmith_torch.runtime.machine import available_processors

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_in_processes(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], processors: int | None = None
) -> Sequence[ResultT]:
    """Apply ``function`` to each item in parallel processes; return the results in order.

    At most ``processors`` processes run; the default is the number of processors that this process
    may use. The function, items and results are pickled. The processes are forks, which already
    have all modules loaded. Everything is computed in this process instead if:

    - forks are unsafe (macOS) or unavailable (Windows);
    - there is only one processor or one item;
    - a fork dies.
    """
    workers = min(len(items), processors or available_processors())
    if sys.platform == "linux" and workers > 1:
        context = multiprocessing.get_context("fork")
        try:
            with ProcessPoolExecutor(workers, mp_context=context) as executor:
                return list(executor.map(function, items))
        except BrokenProcessPool:
            pass
    return [function(item) for item in items]
