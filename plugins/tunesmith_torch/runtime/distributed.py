"""Training with several processes: what they tell each other, and how they end together.

Every rank computes its share of each batch; losses, counts and gradients are summed over all, so
that an update is the one that a process alone would make, up to rounding, and all ranks make it.
Alone, everything here does nothing.

Ranks speak through one exchange. What a rank says is a value, or that memory ran out and the batch
must be computed again, or the error that ends its training. Whoever is in an exchange hears the
error and ends too, whatever it was waiting for: so no rank waits for one that has failed. Gradients
are summed right after an exchange, when all are known to be there and to have room for the sums:
from there on nothing is allocated that could fail on one of them.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from tunesmith import distributed, errors
from tunesmith.contracts import Job
from tunesmith.distributed import Dismissed
from tunesmith.errors import DataError, RunStopped, TrainingError, TunesmithError
from tunesmith.events import Event, PhaseAdvanced
from tunesmith_torch.runtime.device import pick_device
from tunesmith_torch.runtime.seed import seed_all

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""What a rank may keep the others waiting: rank 0 looks, judges and saves in between."""
PROMPT = timedelta(minutes=10)
"""What GPUs may keep each other waiting: all ranks are there when tensors are summed."""
LOOK = 0.1
"""Seconds between two looks for who has come to train."""
SHORT = 512
"""Bytes of an exchange's first round; a longer message takes a second one."""
BUCKET = 16_777_216
"""Numbers that are summed over ranks at once: 64 MiB."""


class Again(Exception):
    """On some rank memory ran out: all of them compute the batch again."""


class Lost(TrainingError):
    """Another process of this training is gone."""


@dataclass
class _Team:
    """The ranks while they train together."""

    number: int
    count: int
    gpus: Any = None
    """The group that sums tensors of GPUs; None where tensors are on the CPU."""
    over: bool = False
    """An error has been told to all, or one of them is gone: nothing can be exchanged any more."""


_team: _Team | None = None
_meetings = itertools.count()
"""Each group finds itself under a number of its own: old addresses would mislead a second one."""


def together(
    train: Callable[Concatenate[Job[Any], P], T],
) -> Callable[Concatenate[Job[Any], P], T]:
    """Let a function that trains a job do so with all ranks, where there are several.

    They begin it together, and what ends it on one rank ends it on all: rank 0 raises the error,
    the others :class:`tunesmith.distributed.Dismissed`.
    """

    @wraps(train)
    def trained(job: Job[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        global _team
        if distributed.count() == 1 or _team is not None:
            return train(job, *args, **kwargs)
        gpus = _meet(pick_device(job.device), job.emit)
        _team = team = _Team(distributed.number(), distributed.count(), gpus)
        try:
            gathered(None)
            result = train(job, *args, **kwargs)
            gathered(None)
            return result
        except Exception as error:
            raise _told(team, error) from error
        finally:
            _team = None
            dist.destroy_process_group()

    return trained


def is_first() -> bool:
    """Whether this is the rank that tells and writes."""
    return _team is None or _team.number == 0


def count() -> int:
    """How many ranks train together."""
    return 1 if _team is None else _team.count


def deal(sizes: Sequence[int]) -> list[int]:
    """This rank's items of a batch, as their places in it: as even by size as may be.

    The largest first, each to the rank that has least (Graham 1969, "Bounds on multiprocessing
    timing anomalies"); items of one size are dealt in turn.
    """
    if _team is None:
        return list(range(len(sizes)))
    shares: list[list[int]] = [[] for _ in range(_team.count)]
    loads = [0] * _team.count
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        rank = min(range(_team.count), key=lambda rank: (loads[rank], len(shares[rank]), rank))
        shares[rank].append(place)
        loads[rank] += sizes[place]
    return sorted(shares[_team.number])


def reseed(seed: int, step: int) -> None:
    """Give ranks above 0 random streams of their own for a step, as a function of the step.

    Rank 0 goes on with what it has, which a checkpoint keeps; so the others need none.
    """
    if _team is not None and _team.number > 0:
        seed_all((seed * 1_000_003 + step * _team.count + _team.number) % 2**32)


# --------------------------------------------------------------------------- what ranks exchange


def gathered(value: Any) -> list[Any]:
    """What every rank says, in their order; plain data, as JSON has it.

    Raises:
        TunesmithError: the error that another rank told, on rank 0.
        Dismissed: the same, on other ranks.
        Again: memory ran out on a rank.
        Lost: a rank is gone.
    """
    return [value] if _team is None else _exchange(_team, {"value": value})


def compute_again() -> None:
    """Say that memory ran out here. It always raises, on all ranks.

    Raises:
        Again: always.
    """
    if _team is not None:
        _exchange(_team, {"again": True})
    raise Again


def summed(values: dict[str, float]) -> dict[str, float]:
    """Sums over all ranks, by name; a rank need not know all names."""
    total: dict[str, float] = {}
    for part in gathered(values):
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def largest(values: dict[str, float]) -> dict[str, float]:
    """The largest over all ranks, by name; a rank need not know all names."""
    total: dict[str, float] = {}
    for part in gathered(values):
        for name, value in part.items():
            total[name] = max(total.get(name, value), value)
    return total


def from_rank_0(work: Callable[[], T]) -> T:
    """Do the work on rank 0; all get what came of it, plain data, or its error."""
    told = gathered(work() if is_first() else None)
    result: T = told[0]
    return result


def in_turn(work: Callable[[], T]) -> T:
    """Do the work on rank 0, then on the others: they find what it has written."""
    if _team is None:
        return work()
    if _team.number > 0:
        gathered(None)
        return work()
    result = work()
    gathered(None)
    return result


def by_rows(rows: int, work: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """Do what has to be done for each row on one rank; what came of all, plain data, in order."""
    if _team is None:
        return list(work(list(range(rows))))
    mine = deal([1] * rows)
    found: dict[int, T] = {}
    for part in gathered(list(zip(mine, work(mine), strict=True))):
        found.update(dict(part))
    return [found[row] for row in range(rows)]


# --------------------------------------------------------------------------- tensors


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Put the sum over all ranks into the place of every gradient.

    A rank that had no row has none and adds nothing. A parameter that has no gradient on any rank
    still has none afterwards: the optimizer passes it by, as it does alone.
    """
    if _team is None:
        return
    lacking = {place for place, p in enumerate(parameters) if p.grad is None}
    nowhere = set.intersection(*map(set, gathered(sorted(lacking))))
    for place in lacking - nowhere:  # where memory runs out, the exchange below tells it
        parameters[place].grad = torch.zeros_like(parameters[place])
    sum_tensors([p.grad for p in parameters if p.grad is not None])


def sum_tensors(tensors: Sequence[Tensor]) -> None:
    """Put the sum over all ranks into the place of every tensor; all ranks get the same bits.

    Room for the sums is made before the exchange, which tells the others where there is none.
    """
    if _team is None:
        return
    buckets = _buckets(tensors)
    rooms = _rooms(buckets)
    gathered(None)
    for bucket in buckets:
        _sum_bucket(_team, bucket, rooms)


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one type and device that are summed at once."""
    buckets: list[list[Tensor]] = []
    held = 0
    for tensor in tensors:
        alike = buckets and _kind(buckets[-1][0]) == _kind(tensor)
        if not alike or held + tensor.numel() > BUCKET:
            buckets.append([])
            held = 0
        buckets[-1].append(tensor)
        held += tensor.numel()
    return buckets


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device


def _in_place(bucket: Sequence[Tensor]) -> bool:
    return len(bucket) == 1 and bucket[0].is_contiguous()  # a large one: no room for it twice


def _rooms(buckets: Sequence[Sequence[Tensor]]) -> dict[Any, Tensor]:
    """For each kind of tensors, numbers enough for its largest bucket."""
    sizes: dict[Any, int] = {}
    for bucket in buckets:
        if not _in_place(bucket):
            kind, size = _kind(bucket[0]), sum(tensor.numel() for tensor in bucket)
            sizes[kind] = max(size, sizes.get(kind, 0))
    return {
        (dtype, device): torch.empty(size, dtype=dtype, device=device)
        for (dtype, device), size in sizes.items()
    }


def _sum_bucket(team: _Team, bucket: Sequence[Tensor], rooms: dict[Any, Tensor]) -> None:
    group = team.gpus if bucket[0].is_cuda else None
    if _in_place(bucket):
        _collectively(team, lambda: dist.all_reduce(bucket[0], group=group))
        return
    sizes = [tensor.numel() for tensor in bucket]
    flat = rooms[_kind(bucket[0])][: sum(sizes)]
    parts = torch.split(flat, sizes)
    for tensor, part in zip(bucket, parts, strict=True):
        part.view_as(tensor).copy_(tensor)
    _collectively(team, lambda: dist.all_reduce(flat, group=group))
    for tensor, part in zip(bucket, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def refuse_difference(what: str, digest: Callable[[], str]) -> None:
    """See to it that all ranks have the same of something.

    Raises:
        TrainingError: they do not.
    """
    if _team is None:
        return
    found = gathered(digest())
    for rank, other in enumerate(found):
        if other != found[0]:
            raise TrainingError(
                f"rank {rank}: {what} differ from those of rank 0, so they would train two models",
                hint="all ranks must read the same files with the same versions of the libraries",
            )


# --------------------------------------------------------------------------- the exchange


@cache
def _store() -> Any:
    """Where processes find each other's addresses; torchrun says where it is."""
    return next(rendezvous("env://"))[0]


def _meet(device: torch.device, emit: Callable[[Event], None]) -> Any:
    """Form the group: gloo for what ranks say and for tensors of a CPU.

    Returns:
        The group for tensors of GPUs, by nccl; None on a CPU.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store = PrefixStore(f"tunesmith-{next(_meetings)}", _store())
        _wait_for_all(store, emit)
        dist.init_process_group(
            "gloo",
            store=store,
            rank=distributed.number(),
            world_size=distributed.count(),
            timeout=PATIENCE,
        )
        return dist.new_group(backend="nccl", timeout=PROMPT) if device.type == "cuda" else None
    except (RuntimeError, ValueError) as error:
        raise Lost(f"ranks cannot reach each other: {error!s:.200}") from error


def _wait_for_all(store: PrefixStore, emit: Callable[[Event], None]) -> None:
    """Let rank 0 wait for the others where a signal is heeded, as it is not inside torch.

    One of them may fail before it comes here; torchrun then ends rank 0 with a signal.
    """
    if distributed.number() > 0:
        store.set(f"here-{distributed.number()}", "")
        return
    others = [f"here-{number}" for number in range(1, distributed.count())]
    while not store.check(others):
        emit(PhaseAdvanced(phase="waiting for ranks", done=0))
        time.sleep(LOOK)


def _exchange(team: _Team, message: dict[str, Any]) -> list[Any]:
    if team.over:
        raise Lost("an exchange after the end of training")
    told = [json.loads(text) for text in _all_gather(team, json.dumps(message).encode())]
    error = next((said["error"] for said in told if "error" in said), None)
    if error is not None:
        team.over = True
        raise _rebuilt(error) if team.number == 0 else Dismissed(error["message"])
    if any("again" in said for said in told):
        raise Again
    return [said["value"] for said in told]


def _all_gather(team: _Team, text: bytes) -> list[bytes]:
    """Every rank's text: in one round where all are short, otherwise in two."""
    head = len(text).to_bytes(8, "little")
    rows = _gather_bytes(team, (head + text)[:SHORT].ljust(SHORT, b"\0"))
    sizes = [int.from_bytes(row[:8], "little") for row in rows]
    longest = max(sizes)
    if longest + 8 > SHORT:
        rows = [bytes(8) + row for row in _gather_bytes(team, text.ljust(longest, b"\0"))]
    return [row[8 : 8 + size] for row, size in zip(rows, sizes, strict=True)]


def _gather_bytes(team: _Team, row: bytes) -> list[bytes]:
    mine = torch.frombuffer(bytearray(row), dtype=torch.uint8)
    found = [torch.empty_like(mine) for _ in range(team.count)]
    _collectively(team, lambda: dist.all_gather(found, mine))
    return [tensor.numpy().tobytes() for tensor in found]


def _collectively(team: _Team, work: Callable[[], object]) -> None:
    try:
        work()
    except RuntimeError as error:  # gloo: the connection was closed by the peer
        team.over = True
        raise Lost(
            "a process of this training is gone, so the others cannot go on",
            hint="tunesmith resume goes on from the last checkpoint",
        ) from error


def _told(team: _Team, error: Exception) -> Exception:
    """Tell all ranks the error that ends training here, unless they know; what to raise here."""
    if not team.over:
        try:
            _exchange(team, {"error": _packed(team, error)})
        except Lost:
            return error  # nobody else will say it
        except (TunesmithError, Dismissed):
            pass  # itself
    return error if team.number == 0 else Dismissed(str(error))


def _packed(team: _Team, error: Exception) -> dict[str, Any]:
    known = isinstance(error, TunesmithError)
    text = (
        error.message if isinstance(error, TunesmithError) else f"{type(error).__name__}: {error}"
    )
    return {
        "kind": type(error).__name__ if known else "TrainingError",
        "message": f"rank {team.number}: {text}" if team.number else text,
        "hint": error.hint if isinstance(error, TunesmithError) else None,
        "exit_code": error.exit_code if isinstance(error, TunesmithError) else 1,
    }


def _rebuilt(told: dict[str, Any]) -> TunesmithError:
    """Another rank's error, as if it had been raised here."""
    if told["kind"] == RunStopped.__name__:
        return RunStopped(told["message"], exit_code=told["exit_code"])
    if told["kind"] == DataError.__name__:
        where, _, what = told["message"].partition(": ")
        return DataError(where, what, hint=told["hint"])
    plain = ("UsageError", "EnvironmentProblem", "GateError", "IntegrityError", "PluginError")
    kind = vars(errors)[told["kind"]] if told["kind"] in plain else TrainingError
    rebuilt: TunesmithError = kind(told["message"], hint=told["hint"])
    return rebuilt
