"""Base models with attention for packed rows and with fused norms."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from tunesmith_torch.kernels import rms_norm, tree_attention, varlen_attention
from tunesmith_torch.models.loading import (
    Base,
    load_base,
)
from tunesmith_torch.models.quantization import Quantization, load_quantized
from tunesmith_torch.runtime.device import Precision


def load_model(  # noqa: PLR0913 - what a model is loaded for
    folder: Path,
    device: torch.device,
    precision: Precision,
    *,
    packing: bool,
    quantization: Quantization | None = None,
    fused_kernels: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Base:
    """A base model whose attention can take packed rows and shared beginnings, if wanted.

    ``lean``: with norms that take fewer passes, see :mod:`tunesmith_torch.kernels.rms_norm`.
    ``tokenizer``: the folder's, where it has been read already.
    """
    if packing:
        varlen_attention.register()
    name = tree_attention.register() if packing else "sdpa"
    read = partial(load_quantized, quantization=quantization) if quantization else load_base
    base = read(folder, device=device, dtype=precision.dtype, attention=name, tokenizer=tokenizer)
    if fused_kernels:
        rms_norm.use(base.model)
    return base
