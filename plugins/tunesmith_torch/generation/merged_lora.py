"""Merge adapters into their layers' weights while a model generates on a CPU.

Shapes: I inputs, O outputs of a layer, R rank.

Decoding runs every layer once per token on few rows, where the two small products of an adapter
take a third of the time. So on a CPU the sum ``W' = W + s B A`` is computed once, and the model
generates with ``W'``. The frozen weights are kept and used again afterwards. This is done only in
fp32, because the sum rounded to bf16 would be a different model. The sum is packed for products of
few rows (:mod:`tunesmith_torch.kernels.packed_linear`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tunesmith_torch.kernels.fused_lora import FusedLoraLinear
from tunesmith_torch.kernels.packed_linear import pack_weight
from tunesmith_torch.options.generation_limits import MAX_MERGED_BYTES, MIN_TOKENS_TO_MERGE


@contextmanager
def merged_adapters(
    model: nn.Module, tokens: int, *, max_bytes: int = MAX_MERGED_BYTES
) -> Iterator[None]:
    """Merge adapters inside the block, if that is exact, fits into memory and saves time.

    ``tokens``: maximum number of tokens that may be generated inside the block. ``max_bytes``:
    maximum size of the merged weights.
    """
    layers = _mergeable_layers(model, max_bytes) if tokens >= MIN_TOKENS_TO_MERGE else []
    try:
        for layer in layers:
            layer.merged_OI = _merged_weight(layer)
        yield
    finally:
        for layer in layers:
            layer.merged_OI = None


def _mergeable_layers(model: nn.Module, max_bytes: int) -> list[FusedLoraLinear]:
    """Return all layers with plain adapters, unless one is not fp32 on a CPU or all are too big."""
    fused_layers = [module for module in model.modules() if isinstance(module, FusedLoraLinear)]
    found = [layer for layer in fused_layers if layer.fusable_adapters()]
    weights = [layer.get_base_layer().weight for layer in found]
    exact = all(weight.is_cpu and weight.dtype == torch.float32 for weight in weights)
    return found if exact and sum(weight.nbytes for weight in weights) <= max_bytes else []


@torch.no_grad()
def _merged_weight(layer: FusedLoraLinear) -> Tensor:
    weight_OI: Tensor = layer.get_base_layer().weight.clone()
    for name in layer.fusable_adapters():
        a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
        weight_OI.addmm_(b_OR.float(), a_RI.float(), alpha=float(layer.scaling[name]))
    return pack_weight(weight_OI)
