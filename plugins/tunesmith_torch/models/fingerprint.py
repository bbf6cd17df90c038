"""Compute a fingerprint of a model and token ids, to check whether stored results are valid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from tunesmith_torch.prefix.completion_groups import CompletionGroup

__all__ = ["compute_fingerprint"]

_SAMPLE_SIZE = 65_536
"""Approximate number of elements hashed per tensor, a regular sample of larger tensors."""


def compute_fingerprint(model: nn.Module, groups: Sequence[CompletionGroup]) -> str:
    """Return the SHA-256 of a sample of every parameter and of all token ids."""
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // _SAMPLE_SIZE)].contiguous().cpu()
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    for group in groups:
        for ids in (group.prompt, *group.completions):
            digest.update(np.asarray(ids, dtype=np.int64).tobytes())
            digest.update(b"|")
    return digest.hexdigest()
