"""A last layer that computes what somebody reads.

Shapes: B rows of a padded micro-batch (1 if packed), T tokens, P = B * T positions, N of them
trained, D width.

All layers but the last need every position, because keys and values look back; in the *last* layer,
what comes after the values is a matter of each position alone: queries, output projection and
feed-forward of positions without loss are read by nobody. So their inputs are gathered to N rows
and their outputs spread back, zeros elsewhere, by hooks that live as long as one forward pass: the
module tree and its parameter names stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_Step = Callable[[Tensor, "Places"], Tensor]


class Places:
    """N of P positions, and the way back: where each of the P is among the N, or N for nowhere."""

    def __init__(self, positions_N: Tensor, P: int) -> None:
        self.positions_N = positions_N
        self.back_P = positions_N.new_full((P,), len(positions_N))
        self.back_P[positions_N] = torch.arange(len(positions_N), device=positions_N.device)

    def gather(self, x_PD: Tensor) -> Tensor:
        out_ND: Tensor = _Move.apply(x_PD, self, _gather, _spread)  # type: ignore[no-untyped-call]
        return out_ND

    def spread(self, x_ND: Tensor) -> Tensor:
        out_PD: Tensor = _Move.apply(x_ND, self, _spread, _gather)  # type: ignore[no-untyped-call]
        return out_PD


def _gather(x_PD: Tensor, at: Places) -> Tensor:
    return x_PD.index_select(0, at.positions_N)


def _spread(x_ND: Tensor, at: Places) -> Tensor:
    """Zeros elsewhere: each is a gather, which is faster than a scatter and has a fixed order."""
    return torch.cat([x_ND, x_ND.new_zeros(1, x_ND.shape[1])]).index_select(0, at.back_P)


class _Move(torch.autograd.Function):
    """There, and its gradient back: each of the two is the other's transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Places, there: _Step, back: _Step) -> Tensor:
        ctx.at, ctx.back = at, back
        return there(x, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.back(above, ctx.at), None, None, None


@contextmanager
def only_at(decoder: nn.Module, at: Places, shape: torch.Size) -> Iterator[None]:
    """While it lasts, the last layer's queries, output projection and feed-forward run at N."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x_BTD, *rest = args
        return (at.gather(x_BTD.flatten(0, 1))[None], *rest)

    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if isinstance(out, tuple):  # a mixture of experts may return its routing too
            return (after(module, args, out[0]), *out[1:])
        return at.spread(out[0]).view(*shape, -1)

    hooks = []
    try:
        for module in _position_wise(decoder):
            hooks.append(module.register_forward_pre_hook(before))
            hooks.append(module.register_forward_hook(after))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _position_wise(decoder: Any) -> list[nn.Module]:
    """Find the parts of the last layer that may be trimmed; unknown names are left alone."""
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return []
    last = layers[: decoder.config.get_text_config().num_hidden_layers][-1]
    attention = getattr(last, "self_attn", None)
    parts = [
        getattr(last, "mlp", None),
        *(getattr(attention, n, None) for n in ("q_proj", "o_proj")),
    ]
    return [part for part in parts if isinstance(part, nn.Module)]
