"""Errors of a rank as plain data, so that another rank can raise them."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from tunesmith import errors
from tunesmith.errors import DataError, RunStopped, TrainingError, TunesmithError


class RankLost(TrainingError):
    """Another process of this training has ended; the next one need not."""

    will_repeat = False


def is_lost_connection(error: Exception) -> bool:
    """Return True if an operation of torch failed because another rank has left."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def rank_lost() -> RankLost:
    """Return the error of a rank whose connection to another one is gone."""
    return RankLost(
        "a process of this training has ended, so the others cannot continue",
        hint="tunesmith resume continues from the last checkpoint",
    )


def encode_error(rank: int, error: Exception) -> dict[str, Any]:
    """Return an error of a rank as plain data, for the others."""
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
    """Return another rank's error as if it had been raised here."""
    if encoded["kind"] == RunStopped.__name__:
        return RunStopped(encoded["message"], exit_code=encoded["exit_code"])
    if encoded["kind"] == DataError.__name__:
        where, _, what = encoded["message"].partition(": ")
        return DataError(where, what, hint=encoded["hint"])
    plain = ("UsageError", "EnvironmentProblem", "GateError", "IntegrityError", "PluginError")
    kind = vars(errors)[encoded["kind"]] if encoded["kind"] in plain else TrainingError
    error: TunesmithError = kind(encoded["message"], hint=encoded["hint"])
    return error
