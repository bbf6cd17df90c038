"""Choose the number format of a training, once.

A resumed run keeps the format that it started with, even on a machine for which ``auto`` would
choose another: the weights would not get the same bits.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from tunesmith.contracts import Job
from tunesmith.storage import write_atomic
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import Precision, pick_precision
from tunesmith_torch.untrusted.foreign_code import read_json_object

PRECISION_FILE = "precision.json"
"""File in the job's folder that stores the choice."""


def resolve_precision(job: Job[Any], device: torch.device, hidden_size: int | None) -> Precision:
    """Return the precision of a training of a model with this hidden size."""
    options: TrainingOptions = job.config
    if options.precision != "auto":
        return pick_precision(device, options.precision)

    def load_or_choose() -> Precision:
        path = job.out / PRECISION_FILE
        if path.is_file():
            stored = read_json_object(path)
            dtype = pick_precision(device, stored["precision"]).dtype
            return Precision(dtype, stored["reason"])
        chosen = pick_precision(device, hidden_size=hidden_size)
        name = "bf16" if chosen.dtype == torch.bfloat16 else "fp32"
        write_atomic(path, json.dumps({"precision": name, "reason": chosen.reason}) + "\n")
        return chosen

    return distributed.rank_0_first(load_or_choose)
