"""What the reference thinks of the answers, computed once and kept below the run folder.

The key is a fingerprint of the model's weights and of all token ids: on resume the values are read
back only if they belong to this very model and data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.contracts import Job
from tunesmith.storage import commit_folder, verify
from tunesmith.storage.manifest import MANIFEST, read_manifest
from tunesmith_torch.models.fingerprint import fingerprint
from tunesmith_torch.prefix.completion_groups import Group
from tunesmith_torch.runtime import distributed

FOLDER = "reference"
_FILE = "logprobs.safetensors"


def remembered(
    job: Job[Any],
    model: nn.Module,
    groups: Sequence[Group],
    ask: Callable[[Sequence[Group]], list[Tensor]],
) -> list[Tensor]:
    """The reference's scores of the groups, one tensor each: kept ones, or newly asked and kept.

    Each rank asks for its share of the groups.
    """
    folder = job.out / FOLDER
    key = fingerprint(model, groups)
    counts = [len(group.answers) for group in groups]
    if distributed.in_turn(lambda: _holds(folder, key)):
        return list(torch.split(load_file(folder / _FILE)["logprobs"], counts))
    flat = torch.zeros(sum(counts))
    scores = list(torch.split(flat, counts))
    mine = distributed.deal([group.answer_tokens + len(group.prompt) for group in groups])
    for place, found in zip(mine, ask([groups[place] for place in mine]), strict=True):
        scores[place].copy_(found)
    distributed.sum_tensors([flat])

    def write(staging: Path) -> None:
        save_file({"logprobs": flat}, staging / _FILE)

    if distributed.is_first():
        commit_folder(folder, write, {"key": key})
    return scores


def _holds(folder: Path, key: str) -> bool:
    whole = (folder / MANIFEST).is_file() and not verify(folder)
    return whole and read_manifest(folder).meta.get("key") == key
