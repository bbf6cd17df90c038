"""The training state in a checkpoint: the part that each rank writes is durable before a commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tables import build

from tunesmith.storage import Disk
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime.distributed import ProcessGroup, join_group
from tunesmith_torch.training import training_state


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_commit_flushes_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """Rank 0 flushes all files, but a flush of another machine's file may do nothing."""
    flushed = []
    real = Disk.fsync

    def fsync(self: Disk, fd: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real(self, fd)

    monkeypatch.setattr(Disk, "fsync", fsync)
    masters = MasterWeights(
        [("w", torch.nn.Parameter(torch.ones(3)))], build(TrainingOptions, learning_rate=1e-3)
    )
    with join_group(ProcessGroup(rank, 2)):
        training_state.save_training_state(tmp_path, masters)
    assert flushed == ["training.safetensors"] * rank
