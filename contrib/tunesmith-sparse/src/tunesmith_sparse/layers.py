"""Linear layers where a few weights train, as a compact vector beside the frozen matrix.

Shapes: I inputs, O outputs of a layer, K trained weights, P positions in a micro-batch.

The matrix of the base model never changes. Each pass adds the values to a copy of it, which is
freed after the product and computed again in the backward pass. So the optimizer has state for K
numbers, and dropping the values gives back the base model, bit by bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.errors import UsageError
from tunesmith_torch.memory_estimate.meta_model import (
    find_quantizable_layers,
    make_meta_config,
    make_meta_model,
)
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.runtime.device import Precision

__all__ = [
    "SparseLinear",
    "add_values",
    "choose_random",
    "find_error",
    "list_layers",
    "sparse_layers",
]


class SparseLinear(nn.Module):
    """A linear layer with a frozen matrix and K trained values, which start at 0."""

    def __init__(self, layer: nn.Linear, indices_K: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("indices_K", indices_K, persistent=False)
        device = layer.weight.device
        self.values = nn.Parameter(torch.zeros(len(indices_K), device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for inputs of any leading shape."""
        out: Tensor = _Product.apply(x, self.weight, self.values, self.indices_K)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias


def _add(weight_OI: Tensor, values_K: Tensor, indices_K: Tensor) -> Tensor:
    """Return a copy of the matrix with the values added in fp32, rounded to its format."""
    summed_OI = weight_OI.clone()
    flat = summed_OI.view(-1)
    flat[indices_K] = (flat[indices_K].float() + values_K).to(flat.dtype)
    return summed_OI


class _Product(torch.autograd.Function):
    """The product with the sum of matrix and values, which is not kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, values_K: Tensor, indices_K: Tensor) -> Any:
        ctx.save_for_backward(x, weight_OI, values_K, indices_K)
        return x.to(weight_OI.dtype) @ _add(weight_OI, values_K, indices_K).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight_OI, values_K, indices_K = ctx.saved_tensors
        grad_PO = grads[0].reshape(-1, weight_OI.shape[0])
        grad_x = None
        if ctx.needs_input_grad[0]:
            product_PI = grad_PO @ _add(weight_OI, values_K, indices_K)
            grad_x = product_PI.view_as(x).to(x.dtype)
        x_PI = x.reshape(-1, weight_OI.shape[1]).to(grad_PO.dtype)
        return grad_x, None, (grad_PO.t() @ x_PI).view(-1)[indices_K].float(), None


def list_layers(model: Any, names: list[str]) -> dict[str, tuple[nn.Module, str, nn.Linear]]:
    """Return parent, attribute and layer of each linear layer with one of these names, by name.

    Raises:
        UsageError: a name matches no layer.
    """
    found = {
        id(layer): (parent, name, layer) for parent, name, layer in find_quantizable_layers(model)
    }
    layers = {name: found[id(m)] for name, m in model.named_modules() if id(m) in found}
    last_parts = {name.rsplit(".", 1)[-1] for name in layers}
    if unknown := [name for name in names if name not in last_parts]:
        raise UsageError(
            f"technique.modules: the model has no linear layer {unknown[0]}",
            hint=f"it has {', '.join(sorted(last_parts))}",
        )
    if not layers:
        raise UsageError(
            "technique.use: the model has no plain linear layer whose weights sparse could train",
            hint="use technique peft or lora",
        )
    return {n: layer for n, layer in layers.items() if not names or n.rsplit(".", 1)[-1] in names}


def find_error(config: Mapping[str, Any], names: list[str]) -> UsageError | None:
    """Return the error of :func:`list_layers` for a model with this config; None if there is none.

    The model is built without weights, with two layers.
    """
    try:
        meta_config = make_meta_config(config, 2)
    except UsageError:
        return None  # loading the model will report it
    try:
        list_layers(make_meta_model(meta_config, torch.float32, "eager"), names)
    except UsageError as error:
        return error
    return None


def add_values(
    base: LoadedBase,
    precision: Precision,
    density: float,
    modules: list[str],
    chosen: Mapping[str, Tensor] | None,
    seed: int,
) -> AdaptedModel:
    """Replace the layers of a model, and make only their values trainable.

    ``density``: share of each layer's weights. ``modules``: names of layers; empty: all.
    ``chosen``: the positions of trained weights by name of the layer; None: at random.
    """
    base.model.requires_grad_(False)
    for name, (parent, attribute, layer) in list_layers(base.model, modules).items():
        count = max(1, round(density * layer.weight.numel()))
        device = layer.weight.device
        if device.type == "meta":
            indices_K = torch.zeros(count, dtype=torch.long, device=device)
        elif chosen is None:
            indices_K = choose_random(seed, name, layer.weight.numel(), count).to(device)
        else:
            indices_K = chosen[name].long().to(device)
        setattr(parent, attribute, SparseLinear(layer, indices_K))
    details = {"weights": "sparse", "density": density}
    return AdaptedModel(base.model, base, precision, "adapter", details)


def choose_random(seed: int, name: str, size: int, count: int) -> Tensor:
    """Return ``count`` different positions below ``size``, in ascending order.

    The artifact stores only the seed, so the positions must not change with versions of libraries:
    the stream of numpy's ``RandomState`` is frozen.
    """
    random = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    drawn = np.empty(0, np.int64)
    while True:
        drawn = np.concatenate([drawn, random.randint(0, size, count, dtype=np.int64)])
        _, first = np.unique(drawn, return_index=True)
        if len(first) >= count:
            return torch.from_numpy(np.sort(drawn[np.sort(first)[:count]]))


def sparse_layers(model: nn.Module) -> dict[str, SparseLinear]:
    """Return the layers with trained values by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, SparseLinear)}
