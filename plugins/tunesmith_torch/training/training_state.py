"""Save and restore the training state, so that a resumed training continues bit by bit.

After step 40, a checkpoint holds everything that step 41 reads and cannot compute::

    step-00000040/

      manifest           step, checksums, owner of the checkpoint, state of the monitor

      training.safetensors
        master.NAME      | fp32 master weight; the model's bf16 weight is its rounding
        exp_avg.NAME     | AdamW's moments; other optimizers have other parts
        exp_avg_sq.NAME  |
        step.NAME        | AdamW's step count, for its bias correction
        generator.*      | states of torch's generators, on the CPU and on each GPU
        addition.*       | state of additions

      generators.json      states of Python's and NumPy's generators

Other things follow from the step number and are not stored: the rows of each batch and the learning
rate (:mod:`tunesmith_torch.optim.schedule`), and the seeds of worker ranks. All parts are required.
A state that lacks one is an error, because silently restarting part of it would be worse.

If weights are sharded, each rank writes its rows of every tensor into its own file. The metadata of
a file names the rows, so any number of ranks can read them, including a single process::

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
from tunesmith_torch.training.stored_tensors import StoredTensors, save_local_tensors

GENERATORS_FILE = "generators.json"
_LOAD_ERRORS = (KeyError, IndexError, TypeError, OSError, SafetensorError, ValueError, RuntimeError)


def save_training_state(
    folder: Path, masters: MasterWeights, additions: Additions = NO_ADDITIONS
) -> None:
    """Write the training state into ``folder``; if weights are sharded, this rank's part of it."""
    tensors, name = masters.state_dict(), "training.safetensors"
    if masters.is_sharded:
        rank = distributed.rank()
        name = f"training-{rank + 1:05d}-of-{distributed.world_size():05d}.safetensors"
        if rank > 0:  # rank 0 writes the tensors that are not sharded: all ranks have the same
            tensors = {n: t for n, t in tensors.items() if sharding.get_local_part(t) is not t}
    if distributed.is_rank_0():
        tensors |= _generator_tensors() | additions.state_dict()
        _save_generators(folder)
    save_local_tensors(folder / name, tensors)
    if not distributed.is_rank_0():
        _flush(folder / name)


def _flush(path: Path) -> None:
    """Flush a file to disk here, because rank 0, which commits the folder, may run elsewhere."""
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
    (folder / GENERATORS_FILE).write_text(json.dumps(generators), encoding="utf-8")


def restore_training_state(
    folder: Path, masters: MasterWeights, additions: Additions = NO_ADDITIONS
) -> None:
    """Restore a state that :func:`save_training_state` wrote, with any number of ranks.

    Raises:
        IntegrityError: part of the state is missing or does not fit the model.
    """
    try:
        generators = json.loads((folder / GENERATORS_FILE).read_text(encoding="utf-8"))
        like = dict(zip(masters.names, masters.masters, strict=True))
        with StoredTensors(sorted(folder.glob("training*.safetensors")), like) as tensors:
            masters.load_state_dict(tensors)
            additions.load_state_dict(tensors)
            # Last, because loading the other parts must not advance the generators.
            _restore_rng_states(tensors, generators)
    except _LOAD_ERRORS as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise IntegrityError(
            f"{folder}: the training state is incomplete or belongs to another model: {what}",
            hint="delete this checkpoint to continue from the previous one",
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
