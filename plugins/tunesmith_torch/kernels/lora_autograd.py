"""Linear layers and low-rank products on one input, as one operation with a gradient of its own.

Shapes: T tokens, I inputs, O outputs of a layer, R rank, summed over adapters and layers.

A linear layer with an adapter computes (Hu et al. 2021, section 4.1)::

    y = x W^T + b + s (x A^T) B^T

The second product is added into the first one's result, and the scale goes into the small matrix B.
Backward, with ``g = dL/dy`` and ``u = x A^T`` kept from forward::

    du = g (s B)       dB = s g^T u       dA = du^T x       dx = g W + du A

again with the sum done by the product. W is frozen and gets no gradient. Products run in the format
of W: A and B are fp32 masters, rounded for the products, and their gradients are fp32 again, so
autocast has nothing left to do here.

Several adapters on one layer are one of the sum of their ranks. Layers that read the same input
have their A's stacked: ``x A^T``, ``du^T x`` and ``du A`` are one product for all of them, and
their ``dx`` are added up by the products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Layer(NamedTuple):
    """The columns of ``u`` that belong to a layer, by adapter, and each adapter's scale."""

    columns: tuple[slice, ...]
    scales: tuple[float, ...]

    @property
    def all(self) -> slice:
        return slice(self.columns[0].start, self.columns[-1].stop)


class LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: tuple[Layer, ...], *args: Any) -> tuple[Tensor, ...]:
        frozen, low = args[: 2 * len(plan)], args[2 * len(plan) :]
        weights, biases = frozen[::2], frozen[1::2]
        dtype = weights[0].dtype
        outs, highs = [], []
        with torch.autocast(x.device.type, enabled=False):
            x_TI = x.reshape(-1, x.shape[-1]).to(dtype)
            a_RI = _joined([a.to(dtype) for a in low[::2]], 0)
            u_TR = x_TI @ a_RI.t()
            b_OR = iter(low[1::2])
            for layer, weight_OI, bias_O in zip(plan, weights, biases, strict=True):
                scaled = [(next(b_OR) * scale).to(dtype) for scale in layer.scales]
                highs.append(_joined(scaled, 1))
                y_TO = nn.functional.linear(x_TI, weight_OI, bias_O)
                outs.append(y_TO.addmm_(u_TR[:, layer.all], highs[-1].t()))
        ctx.save_for_backward(x_TI, a_RI, u_TR, *weights, *highs)
        ctx.plan, ctx.shape, ctx.dtype = plan, x.shape, x.dtype
        ctx.low_dtypes = [matrix.dtype for matrix in low]
        ctx.set_materialize_grads(False)
        return tuple(y_TO.view(*x.shape[:-1], -1) for y_TO in outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor | None) -> tuple[Tensor | None, ...]:
        x_TI, a_RI, u_TR, *matrices = ctx.saved_tensors
        plan: tuple[Layer, ...] = ctx.plan
        weights, highs = matrices[: len(plan)], matrices[len(plan) :]
        low_needs = ctx.needs_input_grad[2 + 2 * len(plan) :]
        learns = any(low_needs)
        du_TR, dx_TI = torch.empty_like(u_TR), None
        low: list[Tensor | None] = []
        for layer, g, weight_OI, high_OR in zip(plan, above, weights, highs, strict=True):
            if g is None:
                du_TR[:, layer.all] = 0
                low += [None, None] * len(layer.scales)
                continue
            g_TO = g.reshape(-1, g.shape[-1]).to(weight_OI.dtype)
            torch.mm(g_TO, high_OR, out=du_TR[:, layer.all])
            db_OR = g_TO.t() @ u_TR[:, layer.all] if learns else None
            for columns, scale in zip(layer.columns, layer.scales, strict=True):
                here = slice(columns.start - layer.all.start, columns.stop - layer.all.start)
                low += [None, None if db_OR is None else db_OR[:, here] * scale]
            if ctx.needs_input_grad[0]:
                dx_TI = g_TO @ weight_OI if dx_TI is None else dx_TI.addmm_(g_TO, weight_OI)
        dx = None
        if dx_TI is not None:
            dx = dx_TI.addmm_(du_TR, a_RI).view(ctx.shape).to(ctx.dtype)
        if learns:
            da_RI = du_TR.t() @ x_TI
            low[::2] = [da_RI[columns] for layer in plan for columns in layer.columns]
        pairs = zip(low, low_needs, ctx.low_dtypes, strict=True)
        grads = [g.to(dtype) if g is not None and need else None for g, need, dtype in pairs]
        return dx, None, *[None] * (2 * len(plan)), *grads


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
