"""Linear layers whose frozen weights are stored a second time, in the layout of CPU products.

Shapes: I inputs, O outputs of a layer.

A CPU multiplies small tiles of matrices. So a product first copies the weights into tiles, in each
call. For the few rows of a decoding step, this copy takes as long as the product itself. Here the
copy is made once, by the operators of oneDNN that torch's compiler uses for frozen models. One
core, microseconds for 576 inputs and 1536 outputs::

    rows                   1     4    16    64   512
    fp32    plain         70   169   367  1173  8753
            packed        59    82   263   997  8099
    bf16    plain         80    94   185   554  4247
            packed        41    53   144   510  4051

The results differ from those of plain products only by rounding, and in bf16 hardly ever. A packed
layer is not differentiable, so with gradients it computes the plain product.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from tunesmith_torch.options.generation_limits import MAX_PACKED_BYTES

__all__ = ["pack_linears"]


def pack_linears(model: nn.Module, *, max_bytes: int = MAX_PACKED_BYTES) -> int:
    """Replace each plain linear layer of a frozen model on a CPU; return their number.

    Do nothing if the layers are larger than ``max_bytes`` together. Layers under a LoRA adapter are
    skipped in fp32, because generation uses their sum with the adapter instead
    (:mod:`tunesmith_torch.generation.merged_lora`).
    """
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and not isinstance(parent, nn.ModuleDict)  # not A and B of LoRA
        if not (name == "base_layer" and child.weight.dtype == torch.float32)
        if child.weight.is_cpu and can_pack(child.weight.dtype)
    ]
    if sum(layer.weight.nbytes for _, _, layer in layers) > max_bytes:
        return 0
    for parent, name, layer in layers:
        setattr(parent, name, PackedLinear(layer))
    return len(layers)


class PackedLinear(nn.Linear):
    """A linear layer with the parameters of ``layer``, and a packed copy of its weights."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.packed_OI = pack_weight(layer.weight)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with the packed weights, or with the plain ones if it must be."""
        is_plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        weight_OI = self.weight if is_plain or x.dtype != self.weight.dtype else self.packed_OI
        return multiply(x, weight_OI, self.bias)


@torch.no_grad()
def pack_weight(weight_OI: Tensor) -> Tensor:
    """Return the weights in oneDNN's layout, or unchanged if oneDNN cannot be used."""
    if not (weight_OI.is_cpu and can_pack(weight_OI.dtype)):
        return weight_OI
    packed_OI: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous())
    return packed_OI


def multiply(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return ``x W^T + b`` for plain or packed weights."""
    if not weight_OI.is_mkldnn:
        return nn.functional.linear(x, weight_OI, bias_O)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return out


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return True if oneDNN has these operators, and they give the plain product in this dtype."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or dtype not in (torch.float32, torch.bfloat16):
        return False
    # Sines, because random numbers would change the state of the generator.
    waves = torch.arange(80 * 48.0).sin().to(dtype)
    x_TI, weight_OI = waves[: 16 * 48].view(16, 48), waves[16 * 48 :].view(64, 48)
    try:
        with torch.no_grad():
            packed_OI = torch.ops.mkldnn._reorder_linear_weight(weight_OI)
            found_TO = multiply(x_TI, packed_OI, waves[:64])
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    expected_TO = nn.functional.linear(x_TI, weight_OI, waves[:64])
    return bool(packed_OI.is_mkldnn) and torch.allclose(
        found_TO, expected_TO, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps
    )
