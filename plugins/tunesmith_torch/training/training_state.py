"""The training state in a checkpoint, so that a resumed training continues bit by bit.

It holds the master weights and AdamW's moments as safetensors, and the states of all random number
generators. The position in the data follows from the step number. Every part is required: a state
that lacks one is refused, because a silent restart is worse than an error.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.errors import IntegrityError
from tunesmith_torch.optim.master_weights import MasterWeights

TENSORS = "training.safetensors"
GENERATORS = "generators.json"
_LOAD_ERRORS = (KeyError, IndexError, TypeError, OSError, SafetensorError, ValueError, RuntimeError)


def save(folder: Path, masters: MasterWeights) -> None:
    """Write the training state below ``folder``."""
    tensors = {name: tensor.contiguous() for name, tensor in masters.state_dict().items()}
    tensors["generator.torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        for index, generator in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"generator.cuda.{index}"] = generator
    save_file(tensors, folder / TENSORS)
    numbers: Any = numpy.random.get_state(legacy=True)
    name, keys, position, gauss, cached = numbers
    generators = {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, gauss, cached],
    }
    (folder / GENERATORS).write_text(json.dumps(generators), encoding="utf-8")


def restore(folder: Path, masters: MasterWeights) -> None:
    """Restore a state that :func:`save` wrote.

    Raises:
        IntegrityError: a part is missing or does not fit the model.
    """
    try:
        tensors = load_file(folder / TENSORS)
        generators = json.loads((folder / GENERATORS).read_text(encoding="utf-8"))
        masters.load_state_dict(tensors)
        _restore_rng_states(tensors, generators)
    except _LOAD_ERRORS as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise IntegrityError(
            f"{folder}: the training state is incomplete or of another model: {what}",
            hint="delete this checkpoint to go on from the one before it",
        ) from error


def _restore_rng_states(tensors: dict[str, Tensor], generators: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["generator.torch"])
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        torch.cuda.set_rng_state_all([tensors[f"generator.cuda.{i}"] for i in range(count)])
    version, internal, gauss_next = generators["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, gauss, cached = generators["numpy"]
    numpy.random.set_state((name, numpy.array(keys, numpy.uint32), position, gauss, cached))
