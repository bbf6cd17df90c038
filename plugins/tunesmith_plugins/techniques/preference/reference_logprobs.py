"""Compute the completions' log-probabilities under the reference model, once per run.

The run folder stores them with a fingerprint of the model's weights and of all token ids. A resumed
run only reads them if the fingerprint matches its model and data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.contracts import Job
from tunesmith.storage import commit_folder, verify_folder
from tunesmith.storage.manifest import MANIFEST, read_manifest
from tunesmith_torch.models.fingerprint import compute_fingerprint
from tunesmith_torch.prefix.completion_groups import CompletionGroup
from tunesmith_torch.runtime import distributed

FOLDER = "reference"
_FILE = "logprobs.safetensors"


def cached_reference_logprobs(
    job: Job[Any],
    model: nn.Module,
    groups: Sequence[CompletionGroup],
    compute_logprobs: Callable[[Sequence[CompletionGroup]], list[Tensor]],
) -> list[Tensor]:
    """Return the reference log-probabilities of the completions, one tensor per group.

    Read them from the run folder, or compute and store them there. Each rank computes its share.
    """
    folder = job.out / FOLDER
    key = compute_fingerprint(model, groups)
    counts = [len(group.completions) for group in groups]
    if distributed.rank_0_first(lambda: _is_cached(folder, key)):
        return list(torch.split(load_file(folder / _FILE)["logprobs"], counts))
    flat = torch.zeros(sum(counts))
    logprobs = list(torch.split(flat, counts))  # views into `flat`, which is filled below
    own = distributed.list_rank_items(
        [group.completion_tokens + len(group.prompt) for group in groups]
    )
    for index, computed in zip(own, compute_logprobs([groups[i] for i in own]), strict=True):
        logprobs[index].copy_(computed)
    distributed.all_reduce_tensors([flat])  # zeros where another rank has computed

    def write(staging: Path) -> None:
        save_file({"logprobs": flat}, staging / _FILE)

    if distributed.is_rank_0():
        commit_folder(folder, write, {"key": key})
    return logprobs


def _is_cached(folder: Path, key: str) -> bool:
    is_intact = (folder / MANIFEST).is_file() and not verify_folder(folder)
    return is_intact and read_manifest(folder).meta.get("key") == key
