"""Form the group of the ranks of torchrun, and end this one if the machine of another is lost.

The end of a process closes its connections, and the other ranks notice at once. A machine without
power or network closes nothing: an exchange with it would wait for hours. So each rank of several
machines counts up a number in the store of the ranks, and watches those of the others. torchrun
starts a process that has ended for this again, and waits until there are enough machines.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from tunesmith import distributed
from tunesmith.events import Event, PhaseAdvanced
from tunesmith_torch.runtime.rank_errors import RankLost, rank_lost

OBJECT_TIMEOUT = timedelta(hours=12)
"""Longest wait in an exchange; meanwhile rank 0 may evaluate, check a gate or save."""
TENSOR_TIMEOUT = timedelta(minutes=10)
"""Longest wait in a sum of GPU tensors, which all ranks enter at the same time."""
POLL_SECONDS = 0.1
"""Seconds between two checks whether all ranks have arrived."""
BEAT_SECONDS = 2.0
"""Seconds between two signs of life of a rank."""
SILENT_SECONDS = 30.0
"""Seconds without a sign of life after which the machine of a rank counts as lost."""
_group_numbers = itertools.count()
"""Each group has its own number, so that it does not read the addresses of an earlier one."""


@cache
def _store() -> Any:
    """Return torchrun's store, in which processes find each other's addresses.

    Raises:
        RankLost: it is a store of torchrun itself, which is there as long as torchrun is.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # that of rank 0, which may come
        return next(rendezvous("env://"))[0]
    try:
        store = next(rendezvous("env://", timeout=timedelta(seconds=SILENT_SECONDS)))[0]
    except (RuntimeError, ValueError) as error:
        raise RankLost(
            "torchrun has ended, so the processes of this training cannot find each other",
            hint=rank_lost().hint,
        ) from error
    store.set_timeout(default_pg_timeout)  # the one above was for the connection
    return store


def form_group(device: torch.device, emit: Callable[[Event], None]) -> tuple[Any, Any]:
    """Form the process group: gloo, for exchanges and for tensors on a CPU.

    Returns:
        The store of the ranks, and the nccl group for tensors on GPUs; None on a CPU.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store = PrefixStore(f"tunesmith-{next(_group_numbers)}", _store())
        wait_for_all(store, emit)
        dist.init_process_group(
            "gloo",
            store=store,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            timeout=OBJECT_TIMEOUT,
        )
        is_gpu = device.type == "cuda"
        gpu_group = dist.new_group(backend="nccl", timeout=TENSOR_TIMEOUT) if is_gpu else None
        return store, gpu_group
    except (RuntimeError, ValueError) as error:
        raise RankLost(f"ranks cannot reach each other: {error!s:.200}") from error


def wait_for_all(
    store: PrefixStore, emit: Callable[[Event], None], poll_seconds: float = POLL_SECONDS
) -> None:
    """Wait on rank 0 until the other ranks have arrived.

    A rank may fail before it arrives, and torchrun then sends a signal to rank 0. Inside torch the
    signal would not be handled; here ``emit`` raises if the run must stop.
    """
    if distributed.rank() > 0:
        store.set(f"arrived-{distributed.rank()}", "")
        return
    keys = [f"arrived-{rank}" for rank in range(1, distributed.world_size())]
    while not store.check(keys):
        emit(PhaseAdvanced(phase="waiting for ranks", done=0))
        time.sleep(poll_seconds)


@contextmanager
def watch_ranks(store: Any, end: Callable[[int], object] = os._exit) -> Iterator[None]:
    """Inside the block, call ``end(1)`` if a rank of another machine is lost.

    ``store``: torch's store of the ranks.
    """
    if not distributed.has_several_machines():
        yield
        return
    heard = dict.fromkeys(range(distributed.world_size()), time.monotonic())
    done = threading.Event()
    # Without a network, a call of the store does not return: time is watched by another thread.
    for work, argument in ((_beat, store.clone()), (_watch, end)):
        threading.Thread(target=work, args=(argument, heard, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _beat(store: Any, heard: dict[int, float], done: threading.Event) -> None:
    """Count up this rank's number, and note the times at which those of the others have changed."""
    counts = dict.fromkeys(heard, 0)
    while not done.wait(BEAT_SECONDS):
        with suppress(RuntimeError):  # the store is gone: nobody is heard
            for rank in counts:
                count = store.add(f"beats-{rank}", int(rank == distributed.rank()))
                if count != counts[rank]:
                    counts[rank], heard[rank] = count, time.monotonic()


def _watch(end: Callable[[int], object], heard: dict[int, float], done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        lost = [rank for rank in heard if time.monotonic() - heard[rank] > SILENT_SECONDS]
        if lost:
            message = (
                f"error: rank {distributed.rank()}: no sign of life of rank {lost[0]} for "
                f"{SILENT_SECONDS:g} seconds; `tunesmith resume` continues from the last checkpoint"
            )
            print(message, file=sys.stderr, flush=True)
            end(1)
            return
