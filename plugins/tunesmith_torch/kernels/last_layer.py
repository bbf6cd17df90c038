"""Compute the last layer only at positions whose output contributes to the loss.

Shapes: B rows of a padded micro-batch (1 if packed), T tokens, P = B * T positions, N of them
trained, D width.

Every layer except the last needs all positions, because later tokens attend to their keys and
values. In the *last* layer, only keys and values are read by other positions. Nothing reads the
queries, the output projection and the feed-forward of positions without loss. With positions 1 and
3 of four trained::

    hidden states [P, D]    0   1   2   3   |
    k_proj, v_proj          k   k   k   k   | all positions: trained queries attend to them
    q_proj                  .   q   .   q   | N of P positions
    o_proj, mlp             .   o   .   o   | N of P positions
    output [P, D]           0   y   0   y   | scattered back, zeros elsewhere

Hooks gather the inputs of these modules to N rows and scatter their outputs back to P rows. They
exist during one forward pass. The module tree and its parameter names do not change. Zeros may
follow the N rows (:mod:`tunesmith_torch.kernels.padding`), and their outputs are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunesmith_torch.kernels.padding import count_padding

_Mapping = Callable[[Tensor, "PositionIndex", int], Tensor]


class PositionIndex:
    """The indices of N selected positions out of P, and the place of each position among them.

    The place of a position that is not selected is -1.
    """

    def __init__(self, positions_N: Tensor, P: int) -> None:
        self.positions_N = positions_N
        self.inverse_P = positions_N.new_full((P,), -1)
        self.inverse_P[positions_N] = torch.arange(len(positions_N), device=positions_N.device)

    def gather(self, x_PD: Tensor) -> Tensor:
        """Select the N rows, [P, D] to [N, D]; zeros may follow them."""
        rows = len(self.positions_N) + count_padding(x_PD, len(self.positions_N))
        out_ND: Tensor = _IndexFunction.apply(x_PD, self, _gather, _scatter, rows)  # type: ignore[no-untyped-call]
        return out_ND

    def scatter(self, x_ND: Tensor) -> Tensor:
        """Put the first N rows at their positions and zeros elsewhere, [N, D] to [P, D]."""
        out_PD: Tensor = _IndexFunction.apply(x_ND, self, _scatter, _gather, len(x_ND))  # type: ignore[no-untyped-call]
        return out_PD


def _gather(x_PD: Tensor, index: PositionIndex, rows: int) -> Tensor:
    """Select the N rows, and append zeros up to this number of rows."""
    selected_ND = x_PD.index_select(0, index.positions_N)
    padding = rows - len(selected_ND)
    return nn.functional.pad(selected_ND, (0, 0, 0, padding)) if padding else selected_ND


def _scatter(x_ND: Tensor, index: PositionIndex, rows: int) -> Tensor:
    """Select rows of x_ND or a row of zeros: deterministic, and faster than a scatter."""
    rows_D = torch.cat([x_ND, x_ND.new_zeros(1, x_ND.shape[1])])
    return rows_D.index_select(0, index.inverse_P % len(rows_D))


class _IndexFunction(torch.autograd.Function):
    """A gather with a scatter as its gradient, or the reverse: each is the other's transpose."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, ctx.index, mapping, ctx.transpose, ctx.rows = args
        y: Tensor = mapping(x, ctx.index, ctx.rows)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.transpose(grad_output, ctx.index, ctx.rows), None, None, None, None


@contextmanager
def compute_last_layer_at(
    decoder: nn.Module, index: PositionIndex, shape: torch.Size
) -> Iterator[None]:
    """Inside the block, compute most of the last layer only at the positions in ``index``.

    That is, its queries, output projection and feed-forward. ``shape`` is that of the token ids,
    [B, T].
    """

    def gather_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x_BTD, *rest = args
        return (index.gather(x_BTD.flatten(0, 1))[None], *rest)

    def scatter_output(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if isinstance(out, tuple):  # a mixture of experts may also return its routing
            return (scatter_output(module, args, out[0]), *out[1:])
        return index.scatter(out[0]).view(*shape, -1)

    hooks = []
    try:
        for module in _position_wise_modules(decoder):
            hooks.append(module.register_forward_pre_hook(gather_input))
            hooks.append(module.register_forward_hook(scatter_output))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def is_recomputed(decoder: nn.Module) -> bool:
    """Return True if gradient checkpointing recomputes the last layer or a part of it.

    Every forward pass checks this again, because a stored result could be outdated. Only modules
    that could do so are checked, because checking all modules of a model takes milliseconds.
    """
    last = _last_layer(decoder)
    parts = [] if last is None else [last, *last.children()]
    return any(getattr(module, "gradient_checkpointing", False) for module in (decoder, *parts))


def _last_layer(decoder: Any) -> nn.Module | None:
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return None
    count = min(len(layers), decoder.config.get_text_config().num_hidden_layers)
    return layers.get_submodule(str(count - 1))


def _position_wise_modules(decoder: nn.Module) -> list[nn.Module]:
    """Return the last layer's modules that compute each position separately, found by name."""
    last = _last_layer(decoder)
    attention = getattr(last, "self_attn", None)
    parts = [
        getattr(last, "mlp", None),
        *(getattr(attention, n, None) for n in ("q_proj", "o_proj")),
    ]
    return [part for part in parts if isinstance(part, nn.Module)]
