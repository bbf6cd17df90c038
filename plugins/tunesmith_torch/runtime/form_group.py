"""Form the process group of torchrun's ranks, and detect lost machines.

When a process ends, its connections close, and the other ranks notice at once. A machine that loses
power or network closes nothing, and an exchange with it would wait for hours. So on several
machines each rank increments a counter in the shared store and watches the counters of the others.
If a machine is lost, the remaining processes end. torchrun then restarts them and waits until there
are enough machines.
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
from tunesmith_torch.runtime.rank_errors import RankLostError, build_rank_lost_error

OBJECT_TIMEOUT = timedelta(hours=12)
"""Maximum wait in an exchange, during which rank 0 may evaluate or save."""
TENSOR_TIMEOUT = timedelta(minutes=10)
"""Maximum wait in a sum of GPU tensors, which all ranks enter at the same time."""
POLL_SECONDS = 0.1
"""Seconds between checks whether all ranks have arrived."""
HEARTBEAT_SECONDS = 2.0
"""Seconds between heartbeats of a rank."""
HEARTBEAT_TIMEOUT_SECONDS = 30.0
"""Seconds without a heartbeat after which a rank's machine counts as lost."""
_group_numbers = itertools.count()
"""Counter of groups, so that a group never reads the addresses of an earlier one."""


@cache
def _store() -> Any:
    """Return torchrun's store, where processes find each other's addresses.

    Raises:
        RankLostError: torchrun itself hosts the store, and torchrun has ended.
    """
    # Rank 0 hosts the store and may not have started yet, so wait with the default timeout.
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return next(rendezvous("env://"))[0]
    try:
        store = next(rendezvous("env://", timeout=timedelta(seconds=HEARTBEAT_TIMEOUT_SECONDS)))[0]
    except (RuntimeError, ValueError) as error:
        raise RankLostError(
            "torchrun has exited, so the ranks of this run can no longer connect to each other",
            hint=build_rank_lost_error().hint,
        ) from error
    store.set_timeout(default_pg_timeout)  # the timeout above was only for connecting
    return store


def form_group(device: torch.device, emit: Callable[[Event], None]) -> tuple[Any, Any]:
    """Form the process group, with gloo for Python objects and for CPU tensors.

    Returns:
        The ranks' store, and the nccl group for tensors on GPUs (None on a CPU).
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store = PrefixStore(f"tunesmith-{next(_group_numbers)}", _store())
        wait_for_all_ranks(store, emit)
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
        raise RankLostError(
            f"ranks cannot reach each other: {error!s:.200}",
            hint="check that all machines can connect to torchrun's MASTER_ADDR and MASTER_PORT",
        ) from error


def wait_for_all_ranks(
    store: PrefixStore, emit: Callable[[Event], None], poll_seconds: float = POLL_SECONDS
) -> None:
    """On rank 0, wait until the other ranks have arrived.

    A rank may fail before it arrives; torchrun then sends a signal to rank 0. torch would not
    handle that signal while it waits. Here, ``emit`` raises if the run must stop.
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
    """Inside the block, call ``end(1)`` if another machine is lost.

    ``store`` is torch's store of the ranks.
    """
    if not distributed.has_several_machines():
        yield
        return
    heard = dict.fromkeys(range(distributed.world_size()), time.monotonic())
    done = threading.Event()
    # Without a network, calls to the store never return, so a second thread watches the time.
    for work, argument in ((_beat, store.clone()), (_watch, end)):
        threading.Thread(target=work, args=(argument, heard, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _beat(store: Any, heard: dict[int, float], done: threading.Event) -> None:
    """Increment this rank's counter, and note when the other ranks' counters change."""
    counts = dict.fromkeys(heard, 0)
    while not done.wait(HEARTBEAT_SECONDS):
        with suppress(RuntimeError):  # the store has ended, so no heartbeat arrives
            for rank in counts:
                count = store.add(f"beats-{rank}", int(rank == distributed.rank()))
                if count != counts[rank]:
                    counts[rank], heard[rank] = count, time.monotonic()


def _watch(end: Callable[[int], object], heard: dict[int, float], done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        lost = [
            rank for rank in heard if time.monotonic() - heard[rank] > HEARTBEAT_TIMEOUT_SECONDS
        ]
        if lost:
            message = (
                f"error: rank {distributed.rank()}: no heartbeat from rank {lost[0]} for "
                f"{HEARTBEAT_TIMEOUT_SECONDS:g} seconds; `tunesmith resume` continues from "
                "the last checkpoint"
            )
            print(message, file=sys.stderr, flush=True)
            end(1)
            return
