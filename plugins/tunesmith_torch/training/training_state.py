"""The training state in a checkpoint, so that a resumed training continues bit by bit.

It holds the master weights, AdamW's moments and the state of additions as safetensors, and the
states of all random number generators. The position in the data follows from the step number. Every
part is required: a state that lacks one is refused, because a silent restart is worse than an
error.

Where weights are sharded, each rank writes its rows of every tensor into a file of its own. The
files say which rows they hold, so any number of ranks can read them, and a single process too::

    training.safetensors                    all rows of every tensor
    training-00001-of-00002.safetensors     rows 0 to 511 of a tensor of 1024
    training-00002-of-00002.safetensors     rows 512 to 1023
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from torch import Tensor

from tunesmith.errors import IntegrityError
from tunesmith.storage import Disk
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.runtime import distributed, sharding
from tunesmith_torch.training.additions import NO_ADDITIONS, Additions
from tunesmith_torch.training.stored_tensors import StoredTensors, save_parts

GENERATORS = "generators.json"
_LOAD_ERRORS = (KeyError, IndexError, TypeError, OSError, SafetensorError, ValueError, RuntimeError)


def save(folder: Path, masters: MasterWeights, additions: Additions = NO_ADDITIONS) -> None:
    """Write the training state below ``folder``; of sharded weights, this rank's part."""
    tensors, name = masters.state_dict(), "training.safetensors"
    if masters.is_sharded:
        rank = distributed.rank()
        name = f"training-{rank + 1:05d}-of-{distributed.world_size():05d}.safetensors"
        if rank > 0:  # what is not sharded is the same on all ranks
            tensors = {n: t for n, t in tensors.items() if sharding.local_part(t) is not t}
    if distributed.is_rank_0():
        tensors |= _generator_tensors() | additions.state_dict()
        _save_generators(folder)
    save_parts(folder / name, tensors)
    if not distributed.is_rank_0():
        _flush(folder / name)


def _flush(path: Path) -> None:
    """Make a file durable: rank 0, which commits the folder, may be on another machine."""
    disk = Disk()
    fd = disk.open(path, os.O_RDONLY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def _generator_tensors() -> dict[str, Tensor]:
    tensors = {"generator.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        for index, generator in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"generator.cuda.{index}"] = generator
    return tensors


def _save_generators(folder: Path) -> None:
    numbers: Any = numpy.random.get_state(legacy=True)
    name, keys, position, gauss, cached = numbers
    generators = {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, gauss, cached],
    }
    (folder / GENERATORS).write_text(json.dumps(generators), encoding="utf-8")


def restore(folder: Path, masters: MasterWeights, additions: Additions = NO_ADDITIONS) -> None:
    """Restore a state that :func:`save` wrote, with any number of ranks.

    Raises:
        IntegrityError: a part is missing or does not fit the model.
    """
    try:
        generators = json.loads((folder / GENERATORS).read_text(encoding="utf-8"))
        like = dict(zip(masters.names, masters.masters, strict=True))
        with StoredTensors(sorted(folder.glob("training*.safetensors")), like) as tensors:
            masters.load_state_dict(tensors)
            additions.load_state_dict(tensors)
            _restore_rng_states(tensors, generators)
    except _LOAD_ERRORS as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise IntegrityError(
            f"{folder}: the training state is incomplete or of another model: {what}",
            hint="delete this checkpoint to go on from the one before it",
        ) from error


def _restore_rng_states(tensors: Mapping[str, Tensor], generators: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["generator.torch"])
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        torch.cuda.set_rng_state_all([tensors[f"generator.cuda.{i}"] for i in range(count)])
    version, internal, gauss_next = generators["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, gauss, cached = generators["numpy"]
    numpy.random.set_state((name, numpy.array(keys, numpy.uint32), position, gauss, cached))
