"""Adapters folded into their layers' weights for the time in which a model answers.

Shapes: I inputs, O outputs of a layer, R rank.

Decoding runs every layer once for each token, on few rows, and an adapter's two small products take
a third of the time. So a CPU adds them up once, ``W' = W + s B A``, and answers with ``W'``; the
frozen weights stay where they are and are in use again afterwards, untouched. In fp32 alone:
rounded to bf16, the sum would be another model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tunesmith_torch.kernels.fused_lora import LeanLinear
from tunesmith_torch.options.generation_limits import FOLDED_BYTES, WORTH_FOLDING


@contextmanager
def folded(model: nn.Module, tokens: int) -> Iterator[None]:
    """Answer with folded weights where that is exact, small and worth it for so many tokens."""
    layers = _layers(model) if tokens >= WORTH_FOLDING else []
    try:
        for layer in layers:
            layer.folded_OI = _sum(layer)
        yield
    finally:
        for layer in layers:
            layer.folded_OI = None


def _layers(model: nn.Module) -> list[LeanLinear]:
    """The layers to fold: all that have plain adapters, or none."""
    fused_kernels = [module for module in model.modules() if isinstance(module, LeanLinear)]
    found = [layer for layer in fused_kernels if layer.plain_adapters()]
    weights = [layer.get_base_layer().weight for layer in found]
    exact = all(weight.is_cpu and weight.dtype == torch.float32 for weight in weights)
    return found if exact and sum(weight.nbytes for weight in weights) <= FOLDED_BYTES else []


@torch.no_grad()
def _sum(layer: LeanLinear) -> Tensor:
    weight_OI: Tensor = layer.get_base_layer().weight.clone()
    for name in layer.plain_adapters():
        a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
        weight_OI.addmm_(b_OR.float(), a_RI.float(), alpha=float(layer.scaling[name]))
    return weight_OI
