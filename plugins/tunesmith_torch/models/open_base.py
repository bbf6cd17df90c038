"""Load base models with this toolkit's packed attention and fused norms."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith_torch.kernels import rms_norm, tree_attention, varlen_attention
from tunesmith_torch.losses.selected_positions import max_logprob_difference
from tunesmith_torch.models.loading import LoadedBase, load_base
from tunesmith_torch.models.quantization import Quantization, load_quantized
from tunesmith_torch.models.self_check import TOLERANCE_NATS, ForwardErrors
from tunesmith_torch.runtime.device import Precision

__all__ = ["load_model"]


def load_model(  # noqa: PLR0913 - independent choices, the optional ones by keyword
    folder: Path,
    device: torch.device,
    precision: Precision,
    *,
    packing: bool,
    quantization: Quantization | None = None,
    fused_kernels: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LoadedBase:
    """Load a base model; with ``packing``, use attention for packed rows and shared prefixes.

    An architecture that cannot use this attention keeps its own. ``fused_kernels``: use norms with
    fewer passes over memory, see :mod:`tunesmith_torch.kernels.rms_norm`. ``tokenizer``: the
    folder's tokenizer, if already loaded.
    """
    if packing:
        varlen_attention.register_varlen_attention()
    name = tree_attention.register_tree_attention() if packing else "sdpa"
    read = partial(load_quantized, quantization=quantization) if quantization else load_base
    load = partial(read, folder, device=device, dtype=precision.dtype)
    base = load(attention=name, tokenizer=tokenizer)
    # An architecture with its own attention cannot switch later, so test and reload now.
    if packing and not base.model.is_backend_compatible() and not _can_pack(base.model):
        base = load(tokenizer=base.tokenizer)
    if fused_kernels:
        rms_norm.fuse_rms_norms(base.model)
    return base


def _can_pack(model: PreTrainedModel) -> bool:
    try:
        nats = max_logprob_difference(model)
    except torch.OutOfMemoryError:
        raise
    except ForwardErrors:
        return False
    return nats <= TOLERANCE_NATS.get(model.dtype, TOLERANCE_NATS[torch.bfloat16])
