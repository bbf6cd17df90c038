"""Fingerprint of a model and of token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from tunesmith_torch.prefix.completion_groups import Group

_SAMPLE = 65_536
"""Numbers of a tensor that enter the fingerprint: all of an adapter, every so many of a matrix."""


def fingerprint(model: nn.Module, groups: Sequence[Group]) -> str:
    """SHA-256 over a sample of every parameter and over all token ids."""
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // _SAMPLE)].contiguous().cpu()
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    for group in groups:
        for ids in (group.prompt, *group.answers):
            digest.update(np.asarray(ids, dtype=np.int64).tobytes())
            digest.update(b"|")
    return digest.hexdigest()
