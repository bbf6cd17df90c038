"""Encode a rank's error as plain data, and decode it on another rank to raise it there."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from tunesmith import errors
from tunesmith.errors import DataError, RunStopped, TrainingError, TunesmithError


class RankLostError(TrainingError):
    """Another rank of this run has exited; the run may succeed if it is resumed."""

    will_repeat = False


def is_lost_connection(error: Exception) -> bool:
    """Return True if a torch operation failed because another rank has ended."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def build_rank_lost_error() -> RankLostError:
    """Return the error to raise on a rank that lost its connection to another rank."""
    return RankLostError(
        "another rank of this run has exited, so the remaining ranks cannot continue",
        hint="`tunesmith resume` continues from the last checkpoint",
    )


def encode_error(rank: int, error: Exception) -> dict[str, Any]:
    """Return a rank's error as plain data, to send to the other ranks."""
    known = isinstance(error, TunesmithError)
    text = (
        error.message if isinstance(error, TunesmithError) else f"{type(error).__name__}: {error}"
    )
    return {
        "kind": type(error).__name__ if known else "TrainingError",
        "message": f"rank {rank}: {text}" if rank else text,
        "hint": error.hint if isinstance(error, TunesmithError) else None,
        "exit_code": error.exit_code if isinstance(error, TunesmithError) else 1,
    }


def decode_error(encoded: dict[str, Any]) -> TunesmithError:
    """Return another rank's error as an exception to raise on this rank."""
    if encoded["kind"] == RunStopped.__name__:
        return RunStopped(encoded["message"], exit_code=encoded["exit_code"])
    if encoded["kind"] == DataError.__name__:
        where, _, what = encoded["message"].partition(": ")
        return DataError(where, what, hint=encoded["hint"])
    plain = ("UsageError", "EnvironmentProblem", "GateError", "IntegrityError", "PluginError")
    kind = vars(errors)[encoded["kind"]] if encoded["kind"] in plain else TrainingError
    error: TunesmithError = kind(encoded["message"], hint=encoded["hint"])
    return error
