"""Train with several processes (ranks), which exchange data and end together after an error.

Every rank computes its share of each batch. Losses, counts and gradients are summed over all ranks,
so every rank makes the same update, which equals a single process's update up to rounding. In a
single process, nothing here has an effect.

Ranks exchange messages in one collective operation, :func:`all_gather_object`. A message is one of
three things: a value, a request to compute the batch again because memory ran out, or the error
that ends this rank's training::

    rank 0   {"value": 3}      all ranks return [3, 5]
    rank 1   {"value": 5}
    rank 0   {"value": 3}      all ranks raise RecomputeBatch
    rank 1   {"again": true}
    rank 0   {"value": 3}      rank 0 raises the error, the others EndedByRankZero
    rank 1   {"error": ...}

A rank with an error enters the next exchange of the other ranks, whatever its purpose, so no rank
waits for a failed one. Gradients are summed right after an exchange, when all ranks are known to
take part and to have allocated their buffers. After that, no allocation can fail on just one rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from tunesmith import distributed
from tunesmith.contracts import Job
from tunesmith.distributed import EndedByRankZero
from tunesmith.errors import TrainingError, TunesmithError
from tunesmith_torch.runtime import tensor_buckets
from tunesmith_torch.runtime.device import pick_device
from tunesmith_torch.runtime.form_group import TENSOR_TIMEOUT, form_group, watch_ranks
from tunesmith_torch.runtime.rank_errors import (
    RankLostError,
    build_rank_lost_error,
    decode_error,
    encode_error,
    is_lost_connection,
)
from tunesmith_torch.runtime.seed import seed_all

__all__ = [
    "all_reduce_sum",
    "all_reduce_tensors",
    "broadcast_from_rank_0",
    "is_rank_0",
    "list_rank_items",
    "rank",
    "rank_0_first",
    "run_on_all_ranks",
    "world_size",
]

T = TypeVar("T")

FIRST_ROUND_BYTES = 512
"""Maximum bytes per rank in the first round of an exchange; longer texts need a second round."""


class RecomputeBatch(Exception):
    """Raised on every rank if one runs out of memory, so that all ranks recompute the batch."""


@dataclass
class ProcessGroup:
    """This rank and the ranks that it trains with."""

    rank: int
    """Index of this process, from 0."""
    world_size: int
    """Number of processes."""
    gpu_group: Any = None
    """torch's group for sums of GPU tensors; None if tensors are on the CPU."""
    store: Any = None
    """torch's store, to which a failing rank writes its error."""
    bucket_numel: int = tensor_buckets.BUCKET_NUMEL
    """Maximum number of elements in several tensors that are summed in one operation."""
    closed: bool = False
    """True after an error was broadcast or a rank was lost; no exchange is possible anymore."""
    has_left: bool = False
    """True after an error inside :func:`collectives`: the process must end, not wait for rank 0."""

    def exchange(self, message: dict[str, Any]) -> list[Any]:
        """Send this rank's message to all ranks; return all values, or raise a rank's error."""
        if self.closed:
            raise RankLostError("ranks cannot exchange data, because training has ended")
        messages = [json.loads(text) for text in _all_gather(self, json.dumps(message).encode())]
        error = next((each["error"] for each in messages if "error" in each), None)
        if error is not None:
            self.closed = True
            raise decode_error(error) if self.rank == 0 else EndedByRankZero(error["message"])
        if any("again" in each for each in messages):
            raise RecomputeBatch
        return [each["value"] for each in messages]

    def fail(self, error: Exception) -> Exception:
        """End this rank's exchanges because of an error; return the error to raise.

        That is the error of the first rank that failed, which the store remembers.
        """
        if self.closed or self.store is None:
            self.closed = True
            return error
        self.closed = True
        if is_lost_connection(error):
            error = build_rank_lost_error()
        own = json.dumps(encode_error(self.rank, error))
        first = self.store.compare_set("error", "", own).decode()
        return error if first == own else decode_error(json.loads(first))

    def sum_in_place(self, tensor: Tensor) -> None:
        """Replace the tensor with its sum over all ranks."""
        torch_group = self.gpu_group if tensor.is_cuda else None
        _run_collective(self, lambda: dist.all_reduce(tensor, group=torch_group))


_group: ProcessGroup | None = None


@contextmanager
def join_group(group: ProcessGroup) -> Iterator[None]:
    """Make this module's functions use this group inside the block."""
    global _group
    before, _group = _group, group
    try:
        yield
    finally:
        _group = before


@contextmanager
def run_on_all_ranks(job: Job[Any]) -> Iterator[None]:
    """Run the code inside the ``with`` block on all ranks of torchrun together.

    All ranks enter the block together, and an error on one rank ends it on all. Rank 0 raises the
    error; the others raise :class:`tunesmith.distributed.EndedByRankZero`. In a single process, or
    inside another such block, this has no effect.
    """
    if distributed.world_size() == 1 or _group is not None:
        yield
        return
    store, gpu_group = form_group(pick_device(job.device), job.emit)
    group = ProcessGroup(distributed.rank(), distributed.world_size(), gpu_group, store)
    try:
        with join_group(group), watch_ranks(store):
            all_gather_object(None)
            yield
            all_gather_object(None)
    except Exception as error:
        raise _broadcast_error(group, error) from error
    finally:
        dist.destroy_process_group()


def is_rank_0() -> bool:
    """Return True on rank 0, which reports and writes files."""
    return _group is None or _group.rank == 0


def rank() -> int:
    """Return this rank's index, from 0."""
    return 0 if _group is None else _group.rank


def world_size() -> int:
    """Return the number of ranks that train together."""
    return 1 if _group is None else _group.world_size


def list_rank_items(sizes: Sequence[int]) -> list[int]:
    """Return the indices of this rank's items of a batch, assigned by :func:`split_evenly`."""
    if _group is None:
        return list(range(len(sizes)))
    return split_evenly(sizes, _group.world_size)[_group.rank]


def split_evenly(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Return the indices of each rank's items of a batch, with sizes as even as possible.

    The largest items go first, each to the rank with the smallest load (Graham 1969, "Bounds on
    multiprocessing timing anomalies"); items of equal size go to the ranks in turn.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        rank = min(range(ranks), key=lambda rank: (loads[rank], len(shares[rank]), rank))
        shares[rank].append(index)
        loads[rank] += sizes[index]
    return [sorted(share) for share in shares]


def seed_worker_rank(seed: int, step: int) -> None:
    """Seed the random generators of each rank above 0 as a function of rank and step.

    Rank 0 keeps its generators, whose states are in the checkpoint. The other ranks' seeds follow
    from the step, so they need no checkpoint.
    """
    if _group is not None and _group.rank > 0:
        seed_all((seed * 1_000_003 + step * _group.world_size + _group.rank) % 2**32)


# --------------------------------------------------------------------------- values


def all_gather_object(value: Any) -> list[Any]:
    """Return the values of all ranks in rank order; values are plain data, sent as JSON.

    Raises:
        TunesmithError: on rank 0, training failed with this error on another rank.
        EndedByRankZero: on the other ranks, in the same case.
        RecomputeBatch: memory ran out on a rank.
        RankLostError: the process of a rank has ended.
    """
    return [value] if _group is None else _group.exchange({"value": value})


def request_recompute() -> None:
    """Tell all ranks that memory ran out here; all of them raise RecomputeBatch.

    Raises:
        RecomputeBatch: always.
    """
    if _group is not None:
        _group.exchange({"again": True})
    raise RecomputeBatch


def all_reduce_sum(values: dict[str, float]) -> dict[str, float]:
    """Return the sums over all ranks, by name; names may be missing on some ranks."""
    total: dict[str, float] = {}
    for part in all_gather_object(values):
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def all_reduce_max(values: dict[str, float]) -> dict[str, float]:
    """Return the maxima over all ranks, by name; names may be missing on some ranks."""
    total: dict[str, float] = {}
    for part in all_gather_object(values):
        for name, value in part.items():
            total[name] = max(total.get(name, value), value)
    return total


def broadcast_from_rank_0(work: Callable[[], T]) -> T:
    """Call ``work`` on rank 0; return its result on all ranks, or raise its error on all.

    The result must be plain data.
    """
    results = all_gather_object(work() if is_rank_0() else None)
    result: T = results[0]
    return result


def rank_0_first(work: Callable[[], T]) -> T:
    """Call ``work`` on rank 0, then on the other ranks, which see the files that rank 0 wrote.

    Each rank gets its own result. In a single process, this is a plain call.
    """
    if _group is None:
        return work()
    if _group.rank > 0:
        all_gather_object(None)  # this waits for rank 0
        return work()
    result = work()
    all_gather_object(None)
    return result


def map_rows(rows: int, work: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """Divide rows over the ranks; return the results of all rows in order.

    ``work`` receives the indices of this rank's rows, and returns one result per row as plain data.
    """
    if _group is None:
        return list(work(list(range(rows))))
    mine = list_rank_items([1] * rows)
    results: dict[int, T] = {}
    for part in all_gather_object(list(zip(mine, work(mine), strict=True))):
        results.update(dict(part))
    return [results[row] for row in range(rows)]


# --------------------------------------------------------------------------- tensors


def device_mesh(device: torch.device) -> DeviceMesh:
    """Return the mesh of ranks over which FSDP shards; all ranks call this together.

    It does not use the group of the exchanges, so a failing rank's exchange never meets an FSDP
    operation.
    """
    assert _group is not None
    group = _group.gpu_group or dist.new_group(backend="gloo", timeout=TENSOR_TIMEOUT)
    return DeviceMesh.from_group(group, device.type)


@contextmanager
def collectives() -> Iterator[None]:
    """Allow torch's collective operations inside the block. Each of them waits for all ranks.

    Errors cannot be exchanged there. A failing rank leaves its error in the store and raises it.
    When its process ends, its connections close, and the other ranks raise that error too. Earlier
    errors are exchanged at the start of the block.
    """
    all_gather_object(None)
    try:
        yield
    except Exception as error:
        if _group is None:
            raise
        _group.has_left = True
        raise _group.fail(error) from error


def all_reduce_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace every gradient with its sum over all ranks.

    A rank without rows has no gradients and adds zeros. A parameter without a gradient on any rank
    still has none afterwards, so the optimizer skips it, as in a single process.
    """
    if _group is None:
        return
    parameters = [p for p in parameters if not isinstance(p, DTensor)]  # FSDP summed DTensors
    missing = {index for index, p in enumerate(parameters) if p.grad is None}
    missing_everywhere = set.intersection(*map(set, all_gather_object(sorted(missing))))
    # If memory runs out here, the other ranks receive the error in all_reduce_tensors' exchange.
    for index in missing - missing_everywhere:
        parameters[index].grad = torch.zeros_like(parameters[index])
    all_reduce_tensors([p.grad for p in parameters if p.grad is not None])


def all_reduce_tensors(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor with its sum over all ranks; all ranks get the same bits.

    Buffers are allocated before an exchange, so the other ranks receive the error if that fails.
    """
    if _group is None:
        return
    buckets = tensor_buckets.split_into_buckets(tensors, _group.bucket_numel)
    buffers = tensor_buckets.allocate_buffers(buckets)
    all_gather_object(None)
    for bucket in buckets:
        _sum_bucket(_group, bucket, buffers)


def _sum_bucket(group: ProcessGroup, bucket: Sequence[Tensor], buffers: dict[Any, Tensor]) -> None:
    if tensor_buckets.is_summed_in_place(bucket):
        group.sum_in_place(bucket[0])
        return
    sizes = [tensor.numel() for tensor in bucket]
    flat = buffers[tensor_buckets.dtype_and_device(bucket[0])][: sum(sizes)]
    parts = torch.split(flat, sizes)
    for tensor, part in zip(bucket, parts, strict=True):
        part.view_as(tensor).copy_(tensor)
    group.sum_in_place(flat)
    for tensor, part in zip(bucket, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def check_same_on_all_ranks(what: str, digest: Callable[[], str]) -> None:
    """Check that ``digest`` returns the same value on all ranks.

    ``what`` is a plural noun for the error message, such as ``"training rows"``.

    Raises:
        TrainingError: the digests differ between ranks.
    """
    if _group is None:
        return
    digests = all_gather_object(digest())
    for rank, other in enumerate(digests):
        if other != digests[0]:
            raise TrainingError(
                f"rank {rank}: {what} differ from those of rank 0, so the ranks would train "
                "different models",
                hint="give all ranks the same files and the same library versions",
            )


# --------------------------------------------------------------------------- the exchange


def _all_gather(group: ProcessGroup, text: bytes) -> list[bytes]:
    """Exchange one text per rank, and return all of them; long texts take two rounds.

    Collectives need rows of equal length. In the first round, a row holds the length of the text (8
    bytes) and its beginning. In the second round, rows hold the full texts, padded to the longest.
    """
    header = len(text).to_bytes(8, "little")
    rows = _gather_bytes(group, (header + text)[:FIRST_ROUND_BYTES].ljust(FIRST_ROUND_BYTES, b"\0"))
    sizes = [int.from_bytes(row[:8], "little") for row in rows]
    longest = max(sizes)
    if longest + 8 > FIRST_ROUND_BYTES:
        rows = [bytes(8) + row for row in _gather_bytes(group, text.ljust(longest, b"\0"))]
    return [row[8 : 8 + size] for row, size in zip(rows, sizes, strict=True)]


def _gather_bytes(group: ProcessGroup, row: bytes) -> list[bytes]:
    own = torch.frombuffer(bytearray(row), dtype=torch.uint8)
    gathered = [torch.empty_like(own) for _ in range(group.world_size)]
    _run_collective(group, lambda: dist.all_gather(gathered, own))
    return [tensor.numpy().tobytes() for tensor in gathered]


def _run_collective(group: ProcessGroup, work: Callable[[], object]) -> None:
    try:
        work()
    except RuntimeError as error:  # gloo: the connection was closed by the peer
        raise group.fail(build_rank_lost_error()) from error


def _broadcast_error(group: ProcessGroup, error: Exception) -> Exception:
    """Send the error that ends training to all ranks; return the error to raise on this rank."""
    if group.has_left:
        return error
    if not group.closed:
        try:
            group.exchange({"error": encode_error(group.rank, error)})
        except RankLostError:
            return error  # all other ranks have ended, so no rank can report it
        except (TunesmithError, EndedByRankZero):
            pass  # this is the error sent above; it is returned below
    return error if group.rank == 0 else EndedByRankZero(str(error))
