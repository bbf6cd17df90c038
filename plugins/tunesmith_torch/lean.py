"""LoRA's linear layer with the low-rank products done once, in the cheap order, in place.

Shapes: T tokens, I inputs, O outputs, R rank.

A linear layer with an adapter computes (Hu et al. 2021, section 4.1)::

    y = x W^T + b + s (x A^T) B^T

PEFT runs it as three layers, a scale and a sum: five results of T x O or T x R, two of which are
tables as large as the layer's output, read and written only to be added. Here the second product is
added into the first one's result, and the scale goes into the small matrix B. Backward, with
``g = dL/dy`` and ``u = x A^T`` kept from forward::

    du = g (s B)       dB = s g^T u       dA = du^T x       dx = g W + du A

again with the sum done by the product. W is frozen and gets no gradient. Products run in the format
of W: A and B are fp32 masters, rounded for the products, and their gradients are fp32 again, so
autocast has nothing left to do here.

:func:`use` has PEFT build its adapters from this class, through its own table of custom layers.
What this layer does not know (dropout, DoRA, several adapters at once, one that is switched off or
merged) it leaves to PEFT's own forward, which it inherits.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith_torch import bnb  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def use(config: LoraConfig, model: nn.Module) -> None:
    """Build the adapters of ``config`` from :class:`LeanLinear`, if all of ``model`` allows it.

    PEFT picks custom layers by ``isinstance``, so a model with one quantised layer (those are
    subclasses of ``nn.Linear``) keeps PEFT's own everywhere.
    """
    if all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear)):
        config._register_custom_module({nn.Linear: LeanLinear})


class LeanLinear(PeftLinear):  # type: ignore[misc]
    """PEFT's linear layer with an adapter, its parameters and names; another forward."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute what PEFT's forward computes."""
        name = self._only_plain_adapter()
        if name is None or args or kwargs:
            other: Tensor = super().forward(x, *args, **kwargs)
            return other
        base = self.get_base_layer()
        a_RI, b_OR = self.lora_A[name].weight, self.lora_B[name].weight
        args = x, base.weight, base.bias, a_RI, b_OR, self.scaling[name]
        y: Tensor = _LowRank.apply(*args)  # type: ignore[no-untyped-call]
        return y

    def _only_plain_adapter(self) -> str | None:
        """The adapter to compute, or None where it is not exactly one, or not plain."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant:
            return None
        drops = self.training and not isinstance(self.lora_dropout[name], nn.Identity)
        biased = self.lora_B[name].bias is not None
        return None if drops or biased or self.fan_in_fan_out else name


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, weight_OI, bias_O, a_RI, b_OR, scale = args
        dtype = weight_OI.dtype
        with torch.autocast(x.device.type, enabled=False):
            x_TI = x.reshape(-1, x.shape[-1]).to(dtype)
            low_RI, high_OR = a_RI.to(dtype), (b_OR * scale).to(dtype)
            u_TR = x_TI @ low_RI.t()
            y_TO = nn.functional.linear(x_TI, weight_OI, bias_O).addmm_(u_TR, high_OR.t())
        ctx.save_for_backward(x_TI, weight_OI, low_RI, high_OR, u_TR)
        ctx.scale, ctx.shape, ctx.dtypes = scale, x.shape, (x.dtype, a_RI.dtype, b_OR.dtype)
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight_OI, low_RI, high_OR, u_TR = ctx.saved_tensors
        of_x, of_a, of_b = ctx.dtypes
        g_TO = g.reshape(-1, g.shape[-1]).to(weight_OI.dtype)
        du_TR = g_TO @ high_OR
        db_OR = (g_TO.t() @ u_TR).to(of_b).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        da_RI = (du_TR.t() @ x_TI).to(of_a) if ctx.needs_input_grad[3] else None
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g_TO @ weight_OI).addmm_(du_TR, low_RI).view(ctx.shape).to(of_x)
        return dx, None, None, da_RI, db_OR, None
