"""One autograd function for all LoRA layers that read the same input, with a fused backward.

Shapes: T tokens, I inputs, O outputs of a layer, R total rank of all adapters and layers.

A linear layer with an adapter computes (Hu et al. 2021, section 4.1)::

    y = x W^T + b + s (x A^T) B^T

The product itself (``addmm``) adds the low-rank part to ``x W^T``, so there is no second T x O
table. The scale goes into the small matrix B.

Backward, with ``g = dL/dy`` and ``u = x A^T`` kept from forward::

    du = g (s B)       dB = s (u^T g)^T   dA = du^T x       dx = g W + du A

Again the product computes the sum. W is frozen and gets no gradient. Products run in the dtype of
W: A and B are fp32 master weights that are rounded for the products, and their gradients are
converted back to fp32. Autocast has nothing left to do here. A W stored in 4 bits is dequantized
for each of its two products, and released after it.

Several adapters of one layer are computed as one adapter whose rank is the sum of their ranks. For
layers that read the same input, the matrices A are stacked. Then ``x A^T``, ``du^T x`` and ``du A``
are one product for all layers, and the products add up ``dx``::

    columns of u:   | q_proj, R = 8 | k_proj, R = 8 | v_proj, adapter 1 | v_proj, adapter 2 |
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith_torch.kernels.packed_linear import multiply


class LoraLayerSpec(NamedTuple):
    """The properties of a layer and its adapters that are not tensors."""

    columns: tuple[slice, ...]
    """The columns of ``u`` that belong to each adapter."""
    scales: tuple[float, ...]
    """The scale of each adapter."""
    dtype: torch.dtype
    """The dtype of the layer's products."""
    dequantize: Callable[[Tensor], Tensor] | None = None
    """Returns W, [O, I], from the tensor that stores it; None if that tensor is W."""

    @property
    def all_columns(self) -> slice:
        return slice(self.columns[0].start, self.columns[-1].stop)

    def read_weight(self, stored: Tensor) -> Tensor:
        """Return W from the tensor that stores it."""
        return stored if self.dequantize is None else self.dequantize(stored).to(self.dtype)


class LoraFunction(torch.autograd.Function):
    """The autograd function: several LoRA layers on one input.

    The arguments are x and the specs of the layers, then weight and bias of each layer, then A and
    B of each adapter, in the order of the specs.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, specs: tuple[LoraLayerSpec, ...], *args: Any
    ) -> tuple[Tensor, ...]:
        base_weights, lora_weights = args[: 2 * len(specs)], args[2 * len(specs) :]
        weights, biases = base_weights[::2], base_weights[1::2]
        dtype = specs[0].dtype
        outs, scaled_bs = [], []
        device = x.device.type
        mixed = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if mixed else nullcontext():
            x_TI = x.reshape(-1, x.shape[-1]).to(dtype)
            a_RI = _concat([a.to(dtype) for a in lora_weights[::2]], 0)
            u_TR = x_TI @ a_RI.t()
            b_OR = iter(lora_weights[1::2])
            for spec, weight, bias_O in zip(specs, weights, biases, strict=True):
                scaled = [(next(b_OR) * scale).to(dtype) for scale in spec.scales]
                scaled_bs.append(_concat(scaled, 1))
                y_TO = multiply(x_TI, spec.read_weight(weight), bias_O)
                y_TO.addmm_(u_TR[:, spec.all_columns], scaled_bs[-1].t())
                # Not a view: a model may change the output of a layer in place (Gemma 3n).
                outs.append(torch.ops.aten._unsafe_view(y_TO, (*x.shape[:-1], y_TO.shape[-1])))
        ctx.save_for_backward(x_TI, a_RI, u_TR, *weights, *scaled_bs)
        ctx.specs, ctx.shape, ctx.dtype = specs, x.shape, x.dtype
        ctx.lora_dtypes = [matrix.dtype for matrix in lora_weights]
        ctx.set_materialize_grads(False)
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        x_TI, a_RI, u_TR, *matrices = ctx.saved_tensors
        specs: tuple[LoraLayerSpec, ...] = ctx.specs
        weights, scaled_bs = matrices[: len(specs)], matrices[len(specs) :]
        lora_needs = ctx.needs_input_grad[2 + 2 * len(specs) :]
        any_lora = any(lora_needs)
        du_TR, dx_TI = torch.empty_like(u_TR), None
        lora_grads: list[Tensor | None] = []
        layers = zip(specs, grad_outputs, weights, scaled_bs, strict=True)
        for spec, g, weight, scaled_b_OR in layers:
            if g is None:  # this layer's output was not used
                du_TR[:, spec.all_columns] = 0
                lora_grads += [None, None] * len(spec.scales)
                continue
            g_TO = g.reshape(-1, g.shape[-1]).to(spec.dtype)
            torch.mm(g_TO, scaled_b_OR, out=du_TR[:, spec.all_columns])
            # u^T g, not g^T u: the product then transposes the narrow matrix.
            db_RO = u_TR[:, spec.all_columns].t() @ g_TO if any_lora else None
            for columns, scale in zip(spec.columns, spec.scales, strict=True):
                start = spec.all_columns.start
                own = slice(columns.start - start, columns.stop - start)
                lora_grads += [None, None if db_RO is None else (db_RO[own] * scale).t()]
            if ctx.needs_input_grad[0]:
                weight_OI = spec.read_weight(weight)
                dx_TI = g_TO @ weight_OI if dx_TI is None else dx_TI.addmm_(g_TO, weight_OI)
                del weight_OI  # before the next layer's W is dequantized
        dx = None
        if dx_TI is not None:
            dx = dx_TI.addmm_(du_TR, a_RI).view(ctx.shape).to(ctx.dtype)
        if any_lora:
            da_RI = du_TR.t() @ x_TI
            lora_grads[::2] = [da_RI[columns] for spec in specs for columns in spec.columns]
        pairs = zip(lora_grads, lora_needs, ctx.lora_dtypes, strict=True)
        grads = [g.to(dtype) if g is not None and need else None for g, need, dtype in pairs]
        return dx, None, *[None] * (2 * len(specs)), *grads


def _concat(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
