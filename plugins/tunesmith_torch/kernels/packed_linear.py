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

Layers that read the same input share a product: ``q_proj``, ``k_proj`` and ``v_proj``. In a gated
MLP, the activation and the multiplication by the gate are part of the products::

    x --> gate_proj, SiLU --> g        x --> up_proj, times g --> down_proj --> y

The results differ from those of plain products only by rounding. A packed layer is not
differentiable, so with gradients it computes the plain product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from tunesmith_torch.options.generation_limits import MAX_PACKED_BYTES

__all__ = ["pack_linears"]

QKV_NAMES = "q_proj", "k_proj", "v_proj"
MLP_NAMES = "gate_proj", "up_proj", "down_proj"


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
    for parent in dict.fromkeys(parent for parent, _, _ in layers):
        _share_product(parent)
    for parent, name, layer in layers:
        if getattr(parent, name) is layer:
            setattr(parent, name, PackedLinear(layer))
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if (mlp := _packed_mlp(child)) is not None:
                setattr(parent, name, mlp)
    return len(layers)


class PackedLinear(nn.Linear):
    """A linear layer with the parameters of ``layer``, and a packed copy of its weights."""

    def __init__(self, layer: nn.Linear) -> None:
        _copy_attributes(self, layer)
        self.packed_OI = pack_weight(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with the packed weights, or with the plain ones if it must be."""
        return multiply(x, self.packed_OI if _is_packable(x, self) else self.weight, self.bias)


class SharedInputLinear(nn.Linear):
    """A linear layer with the parameters of ``layer``, computed together with its siblings."""

    def __init__(self, layer: nn.Linear, product: SharedProduct, number: int) -> None:
        _copy_attributes(self, layer)
        self.product, self.number = product, number

    def forward(self, x: Tensor) -> Tensor:
        """Return this layer's part of the shared product, or a plain one if the inputs differ."""
        is_shared = _is_packable(x, self) and not self._forward_pre_hooks  # a hook changes x
        out = self.product.take(self.number, x) if is_shared else None
        return multiply(x, self.weight, self.bias) if out is None else out


class SharedProduct:
    """The packed product of layers that read the same input; the first layer computes it."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._packed_OI = pack_weight(torch.cat([layer.weight.detach() for layer in layers]))
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias_O = torch.cat(biases) if biases else None
        self._sizes = [layer.out_features for layer in layers]
        self._x: Tensor | None = None
        self._outs: dict[int, Tensor] = {}

    def take(self, number: int, x: Tensor) -> Tensor | None:
        """Return the output of a layer, or None if the first layer did not read the same input."""
        if number == 0:
            out = multiply(x, self._packed_OI, self._bias_O)
            self._x, self._outs = x, dict(enumerate(torch.split(out, self._sizes, -1)))
        if x is not self._x:
            self._outs.clear()
        part = self._outs.pop(number, None)
        if not self._outs:
            self._x = None
        return part


class PackedMLP(nn.Module):
    """A gated MLP with SiLU, whose elementwise operations are part of its products."""

    def __init__(self, gate: PackedLinear, up: PackedLinear, down: PackedLinear) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        """Return ``down(silu(gate(x)) * up(x))``."""
        gate, up, product = self.gate_proj, self.up_proj, torch.ops.mkldnn._linear_pointwise
        if _is_packable(x, gate):
            gate_TO = product(x, gate.packed_OI, None, "swish", [], "")
            inner_TO = product.binary(x, gate_TO, up.packed_OI, None, "mul")
        else:
            inner_TO = nn.functional.silu(gate(x)) * up(x)
        return cast(Tensor, self.down_proj(inner_TO))


def _copy_attributes(to: nn.Linear, layer: nn.Linear) -> None:
    nn.Module.__init__(to)
    to.in_features, to.out_features = layer.in_features, layer.out_features
    to.weight, to.bias = layer.weight, layer.bias
    to.train(layer.training)


def _is_packable(x: Tensor, layer: nn.Linear) -> bool:
    is_plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    return not is_plain and x.dtype == layer.weight.dtype


def _share_product(parent: nn.Module) -> None:
    """Compute the query, key and value projections of an attention layer in one product."""
    layers = [getattr(parent, name, None) for name in QKV_NAMES]
    plain = [layer for layer in layers if type(layer) is nn.Linear]
    if len(plain) == 3 and len({(x.in_features, x.bias is None) for x in plain}) == 1:
        product = SharedProduct(plain)
        for number, (name, layer) in enumerate(zip(QKV_NAMES, plain, strict=True)):
            setattr(parent, name, SharedInputLinear(layer, product, number))


@torch.no_grad()
def _packed_mlp(module: nn.Module) -> PackedMLP | None:
    """Return the module's replacement, or None if it is not a gated MLP with SiLU.

    Results are compared, because names are not enough.
    """
    layers = [getattr(module, name, None) for name in MLP_NAMES]
    packed = [layer for layer in layers if isinstance(layer, PackedLinear)]
    activation = getattr(module, "act_fn", None)
    if len(packed) != 3 or len(list(module.parameters())) != 3 or activation is None:
        return None  # another structure, or a bias
    mlp, weight_OI = PackedMLP(*packed).train(module.training), packed[0].weight
    # Sines, because random numbers would change the state of the generator.
    x_TI = torch.arange(3.0 * weight_OI.shape[1]).sin().view(3, -1).to(weight_OI.dtype)
    if not torch.equal(activation(8 * x_TI), nn.functional.silu(8 * x_TI)):
        return None
    expected_TI = module(x_TI)
    largest = 16 * torch.finfo(weight_OI.dtype).eps * float(expected_TI.abs().max())
    return mlp if torch.allclose(mlp(x_TI), expected_TI, rtol=0, atol=largest) else None


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
