"""Attention within packed rows, block by block, in plain products: the CPU's way.

Shapes: T tokens of a packed micro-batch, L those of a row, n queries of a block, S the keys they
may see, H heads, K key heads, G = H / K queries per key, d head width.

Blocks of 128 queries meet only the keys that they may see, in plain products::

    Z = scale Q K^T + mask        P = softmax(Z)                     O = P V
    dV = P^T dO                   dZ = P * (dP - rowsum(P * dP))     where dP = dO V^T
    dQ = scale dZ K               dK = scale dZ^T Q

The G queries of a key are stacked into one product, so grouped keys are never repeated. Short rows
that lie side by side share a block, where the mask keeps them apart: the products are small, and
one larger one costs less than several. In bf16, forward and backward take 0.3 to 0.55 of the fused
kernel's time for rows of 32 to 512 tokens; P is kept, L**2 / 2 numbers a head, so long rows take
the fused kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128
"""Queries in a block."""


class How(NamedTuple):
    """What attention depends on beside queries, keys and values."""

    scale: float
    window: int | None
    softcap: float | None
    dropout: float


def attend(q: Tensor, k: Tensor, v: Tensor, cuts: tuple[int, ...], how: How) -> Tensor:
    """Each row by itself, [1, H, T, d] to [1, T, H, d]; ``cuts`` are where rows start, and T.

    Softcap and dropout are not done here.
    """
    out: Tensor = _Blocks.apply(q, k, v, cuts, how)  # type: ignore[no-untyped-call]
    return out


class Block(NamedTuple):
    """Queries and the keys they may see; keys, too, go to ``end``."""

    first_key: int
    start: int
    end: int
    rows: tuple[int, ...]
    """Lengths of the whole rows that it consists of; empty if it is a part of one."""


def blocks(cuts: tuple[int, ...], window: int | None) -> Iterator[Block]:
    """Yield short rows together, as many as a block holds, and long rows in parts."""
    most = BLOCK if window is None else min(BLOCK, window)
    held: list[int] = []
    for start, stop in pairwise(cuts):
        if held and start - held[0] + stop - start > most:
            yield _whole(held)
            held = []
        if stop - start <= most:
            held = [*(held or [start]), stop]
            continue
        for a in range(start, stop, BLOCK):
            lo = start if window is None else max(start, a - window + 1)
            yield Block(lo, a, min(a + BLOCK, stop), ())
    if held:
        yield _whole(held)


def _whole(cuts: list[int]) -> Block:
    return Block(cuts[0], cuts[0], cuts[-1], tuple(b - a for a, b in pairwise(cuts)))


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        q, k, v, ctx.cuts, ctx.how = args
        (_, H, T, d), K = q.shape, k.shape[1]
        G, q_HTd, k_KTd, v_KTd = H // K, q[0], k[0], v[0]
        o_THd = q.new_empty(T, H, d)
        o_HTd = o_THd.transpose(0, 1)
        kept = []
        for lo, a, end, rows in blocks(ctx.cuts, ctx.how.window):
            n, S = end - a, end - lo
            q_KGnd = q_HTd[:, a:end].reshape(K, G * n, d)
            z = q.new_empty(K, G * n, S)
            keys = k_KTd[:, lo:end].transpose(1, 2)
            torch.baddbmm(z, q_KGnd, keys, beta=0, alpha=ctx.how.scale, out=z)
            local = ctx.how.window is not None and ctx.how.window < S and not rows
            width = S if local else n  # without a window only the last n keys can be too late
            window = ctx.how.window if local else None
            if len(rows) > 1:
                z += apart(rows, 0, G, q.dtype)
            else:
                z[..., S - width :] += _bias(n, width, window, G, q.dtype)
            p = torch.softmax(z, -1)
            o_HTd[:, a:end] = torch.bmm(p, v_KTd[:, lo:end]).view(H, n, d)
            kept.append(p)
        ctx.save_for_backward(q, k, v, *kept)
        packed: Tensor = o_THd[None]
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        (_, H, _, d), K = q.shape, k.shape[1]
        G, do_HTd = H // K, above[0].transpose(0, 1)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        written = q.shape[2]
        computed = list(zip(kept, blocks(ctx.cuts, ctx.how.window), strict=True))
        # From the end: a row's last part is the first to meet its keys, so nothing is zeroed.
        for p, (lo, a, end, _) in reversed(computed):
            n = end - a
            do_KGnd = do_HTd[:, a:end].reshape(K, G * n, d)
            q_KGnd = q[0, :, a:end].reshape(K, G * n, d)
            dp = torch.bmm(do_KGnd, v[0, :, lo:end].transpose(1, 2))
            dz = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dq[0, :, a:end] = torch.bmm(dz, k[0, :, lo:end]).view(H, n, d)
            new = max(lo, min(end, written))
            for of_KTd, of_KSd in (
                (dv[0], torch.bmm(p.transpose(1, 2), do_KGnd)),
                (dk[0], torch.bmm(dz.transpose(1, 2), q_KGnd)),
            ):
                of_KTd[:, lo:new] = of_KSd[:, : new - lo]
                of_KTd[:, new:end] += of_KSd[:, new - lo :]
            written = lo
        return dq.mul_(ctx.how.scale), dk.mul_(ctx.how.scale), dv, None, None


@lru_cache(maxsize=64)
def band(n: int, S: int, window: int | None, device: torch.device) -> Tensor:
    """Which of S keys each of the last n positions may see."""
    may_nS = torch.ones(n, S, dtype=torch.bool, device=device).tril_(S - n)
    return may_nS if window is None else may_nS.triu_(S - n - window + 1)


@lru_cache(maxsize=64)
def _bias(n: int, S: int, window: int | None, G: int, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros(n, S, dtype=dtype)
    cpu = torch.device("cpu")
    return zero.masked_fill_(~band(n, S, window, cpu), -torch.inf).repeat(G, 1)


@lru_cache(maxsize=256)
def apart(lengths: tuple[int, ...], shared: int, G: int, dtype: torch.dtype) -> Tensor:
    """Zero where a query may look, minus infinity where not, [G * n, shared + n].

    The n queries are rows of these lengths, side by side: each sees ``shared`` keys before all of
    them, and its own row up to itself.
    """
    n = sum(lengths)
    rows, often = torch.arange(len(lengths)), torch.tensor(lengths)
    row_n = torch.repeat_interleave(rows, often, output_size=n)
    may_nS = torch.ones(n, shared + n, dtype=torch.bool).tril_(shared)
    may_nS[:, shared:] &= row_n[:, None] == row_n
    zero = torch.zeros(n, shared + n, dtype=dtype)
    return zero.masked_fill_(~may_nS, -torch.inf).repeat(G, 1)


def forget() -> None:
    """Let go of the masks that are remembered, where they were made without numbers, say."""
    band.cache_clear()
    _bias.cache_clear()
    apart.cache_clear()
