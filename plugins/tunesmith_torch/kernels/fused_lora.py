"""LoRA linear layers with fused low-rank products, computed once for layers that share an input.

PEFT computes an adapter as three layers, a scale and a sum. That makes five results, and two of
them are as large as the layer's output and are read and written only to be added. Here a layer with
its adapters is one operation (:mod:`tunesmith_torch.kernels.lora_autograd`). Layers that read the
same input share one such operation: the query, key and value projections, and the two halves of a
gated MLP::

    x --> q_proj(x)  | the first call computes q, k and v, returns q and caches k and v
    x --> k_proj(x)  | the same tensor x: returns the cached k
    x --> v_proj(x)  | returns the cached v; now the cache is empty
    z --> k_proj(z)  | while k is cached for x, another tensor: k_proj leaves the group for good

:func:`register_fused_lora` makes PEFT build its adapters from :class:`FusedLoraLinear`, through
PEFT's own table of custom layers. Features that this layer does not support (dropout in training,
DoRA, disabled or merged adapters) use PEFT's forward, which it inherits. Layers in 4 bits
(bitsandbytes) are fused too: there, PEFT also copies the layer's output, and computes the adapter
in fp32 outside of autocast.

Shapes: I inputs, O outputs of a layer, R rank.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from tunesmith_torch.runtime import peft_import  # noqa: F401 - must precede peft

# isort: split
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tunesmith_torch.kernels.lora_autograd import LoraFunction, LoraLayerSpec
from tunesmith_torch.kernels.packed_linear import PackedLinear, multiply
from tunesmith_torch.runtime import bitsandbytes

SHARED_INPUT_NAMES = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of sibling layers that read the same input. If one does not, one product is wasted."""


def register_fused_lora(config: LoraConfig, model: nn.Module) -> None:
    """Make PEFT build ``config``'s adapters from fused layers, if it has them for all of the model.

    PEFT picks custom layers by ``isinstance``, and layers of other formats are subclasses of
    ``nn.Linear``. So a model with a single one of these keeps PEFT's own layers everywhere.
    """
    classes = {type(m) for m in model.modules() if isinstance(m, nn.Linear)} - {nn.Linear}
    fused = {quantized: fused_4bit_class() for quantized in classes if _is_4bit(quantized)}
    if len(fused) == len(classes):
        config._register_custom_module({**fused, nn.Linear: FusedLoraLinear})


def group_by_input(model: nn.Module) -> None:
    """Group the fused layers that read the same input; leave other layers unchanged."""
    for module in model.modules():
        for names in SHARED_INPUT_NAMES:
            children = (getattr(module, name, None) for name in names)
            siblings = [child for child in children if isinstance(child, FusedLoraLayer)]
            group = SharedInputGroup(siblings) if len(siblings) > 1 else None
            for layer in siblings:
                layer.input_group = group


def clear_caches(model: nn.Module) -> None:
    """Drop the outputs that an interrupted forward pass cached.

    They would keep its autograd graph in memory.
    """
    for module in model.modules():
        if isinstance(module, FusedLoraLayer) and module.input_group is not None:
            module.input_group.clear()


class SharedInputGroup:
    """Fused layers that read the same input, and the results that have not been fetched yet."""

    def __init__(self, layers: Iterable[FusedLoraLayer]) -> None:
        self._layers = list(layers)
        self._x: Tensor | None = None
        self._cached: dict[FusedLoraLayer, Tensor] = {}

    def compute(self, layer: FusedLoraLayer, names: list[str], x: Tensor) -> Tensor:
        """Return the output of ``layer``; the first call with ``x`` also computes its siblings.

        ``names`` are the adapters of ``layer``.
        """
        cached, same = self._cached.pop(layer, None), self._x is x
        if (
            cached is not None and not same
        ):  # this layer does not have the same input as its siblings
            self._layers.remove(layer)
            layer.input_group = None
            return forward_group({layer: names}, x)[0]
        if cached is None:
            layers = (
                {layer: names} if layer.has_pre_hooks() else {layer: names, **self._others(layer)}
            )
            cached, *rest = forward_group(layers, x)
            self._x, self._cached = x, dict(zip([*layers][1:], rest, strict=True))
        if not self._cached:
            self._x = None  # all results have been fetched, so release the input
        return cached

    def _others(self, layer: FusedLoraLayer) -> dict[FusedLoraLayer, list[str]]:
        """Return the siblings that can be computed with ``layer``, and their adapters."""
        adapters = {
            each: each.fusable_adapters()
            for each in self._layers
            if each is not layer and not each.has_pre_hooks()
        }
        return {each: names for each, names in adapters.items() if names}

    def clear(self) -> None:
        """Free the cached results of this group."""
        self._x, self._cached = None, {}


class FusedLoraLayer(LoraLayer):  # type: ignore[misc]
    """A fused forward for PEFT's LoRA layers of linear layers, whose parameters it keeps."""

    input_group: SharedInputGroup | None = None
    merged_OI: Tensor | None = None  # noqa: N815
    """The layer's weights with the adapters added, packed if possible; set by
    :mod:`tunesmith_torch.generation.merged_lora`."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the same output as PEFT's forward."""
        if self.merged_OI is not None:
            return multiply(x, self.merged_OI, self.get_base_layer().bias)
        names = [] if args or kwargs else self.fusable_adapters()
        if not names:
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        if self.input_group is None:
            return forward_group({self: names}, x)[0]
        return self.input_group.compute(self, names, x)

    def fusable_adapters(self) -> list[str]:
        """Return the active adapters, or an empty list if one of them cannot be fused."""
        if self.disable_adapters or self.merged or self.fan_in_fan_out:
            return []
        names = [name for name in self.active_adapters if name in self.lora_A]
        return names if all(map(self._is_fusable, names)) else []

    def has_pre_hooks(self) -> bool:
        """Return True if a hook may change a layer's input, which then cannot be shared."""
        return bool(self._forward_pre_hooks)

    def product_format(self) -> tuple[torch.dtype, Callable[[Tensor], Tensor] | None]:
        """Return the dtype of the products, and the function that dequantizes the stored weight.

        The function is None for a plain weight.
        """
        return self.get_base_layer().weight.dtype, None

    def _is_fusable(self, name: str) -> bool:
        has_dropout = self.training and not isinstance(self.lora_dropout[name], nn.Identity)
        has_bias = self.lora_B[name].bias is not None
        return not (has_dropout or has_bias or name in self.lora_variant)


class FusedLoraLinear(FusedLoraLayer, PeftLinear):  # type: ignore[misc]
    """PEFT's LoRA linear layer, with the same parameters and names and a fused forward."""


@cache
def fused_4bit_class() -> type[FusedLoraLayer]:
    """Return PEFT's LoRA layer of a 4-bit layer with a fused forward.

    It is made when it is used, because its base class exists only if bitsandbytes is installed.
    """
    from peft.tuners.lora.bnb import Linear4bit

    dequantize_4bit = bitsandbytes.import_bitsandbytes().functional.dequantize_4bit

    class FusedLora4bit(FusedLoraLayer, Linear4bit):  # type: ignore[misc]
        def fusable_adapters(self) -> list[str]:
            # Without gradients, bitsandbytes has products for few rows on a GPU.
            on_cpu = self.get_base_layer().weight.is_cpu
            return super().fusable_adapters() if on_cpu or torch.is_grad_enabled() else []

        def product_format(self) -> tuple[torch.dtype, Callable[[Tensor], Tensor]]:
            base = self.get_base_layer()
            # A weight that FSDP has gathered is another tensor, without the state.
            state = getattr(base.weight, "quant_state", None) or base.quant_state
            return base.compute_dtype, partial(dequantize_4bit, quant_state=state)

    return FusedLora4bit


def _is_4bit(layer_class: type[nn.Module]) -> bool:
    package = sys.modules.get(bitsandbytes.PACKAGE_NAME)  # without it, no layer is in 4 bits
    return package is not None and issubclass(layer_class, package.nn.Linear4bit)


def forward_group(layers: Mapping[FusedLoraLayer, Sequence[str]], x: Tensor) -> tuple[Tensor, ...]:
    """Compute several layers on one input, with the named adapters; return each layer's output."""
    specs, base_weights, lora_weights = [], [], []
    start = 0
    for layer, names in layers.items():
        base = layer.get_base_layer()
        columns, scales = [], []
        for name in names:
            a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
            columns.append(slice(start, start := start + len(a_RI)))
            scales.append(float(layer.scaling[name]))
            lora_weights += [a_RI, b_OR]
        is_packed = isinstance(base, PackedLinear) and not torch.is_grad_enabled()
        base_weights += [base.packed_OI if is_packed else base.weight, base.bias]
        specs.append(LoraLayerSpec(tuple(columns), tuple(scales), *layer.product_format()))
    outs: tuple[Tensor, ...] = LoraFunction.apply(x, tuple(specs), *base_weights, *lora_weights)  # type: ignore[no-untyped-call]
    return outs
