"""An error of one rank is raised on another as it was."""

from __future__ import annotations

import json

import pytest
import torch.distributed as dist

from tunesmith.errors import DataError, EnvironmentProblem, RunStopped, TrainingError
from tunesmith_torch.runtime.distributed import ProcessGroup
from tunesmith_torch.runtime.rank_errors import RankLostError, decode_error, encode_error

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")


@pytest.mark.parametrize(
    "error",
    [
        RunStopped("stopped by SIGTERM", exit_code=143),
        DataError("rows.jsonl:3", "no answer", hint="add one"),
        EnvironmentProblem("no room", hint="delete something"),
        TrainingError("memory ran out"),
    ],
)
def test_errors_survive_the_way_to_another_rank(error: Exception) -> None:
    found = decode_error(json.loads(json.dumps(encode_error(0, error))))
    assert type(found) is type(error) and vars(found) == vars(error)


def test_the_first_error_is_the_one_that_all_ranks_raise() -> None:
    store = dist.HashStore()
    one, two = (ProcessGroup(rank, 3, store=store) for rank in (1, 2))
    bug = KeyError("where")
    assert one.fail(bug) is bug
    found = two.fail(LOST)
    assert isinstance(found, TrainingError)
    assert found.message == "rank 1: KeyError: 'where'"
    assert one.closed and two.closed


def test_a_rank_that_was_killed_leaves_no_error() -> None:
    found = ProcessGroup(0, 2, store=dist.HashStore()).fail(LOST)
    assert isinstance(found, RankLostError)
    assert "another rank of this run has exited" in str(found)
