"""Causal attention over packed rows for CPUs, in blocks of queries with plain matrix products.

Shapes: T tokens of a packed micro-batch, L tokens of a row, n queries of a block, S keys that the
block may see, H heads, K key heads, G = H / K queries per key head, d head width.

A packed micro-batch is one sequence of T tokens. ``cu_seqlens`` (flash attention's name) holds the
start index of each row, and T at the end. Rows of 3, 2 and 300 tokens, cu_seqlens = (0, 3, 5, 305),
become four blocks::

    queries       keys                      x seen   . in the future   - in another row
    0    row a    x . . . .  <- block 1: rows a and b share one product, the mask keeps them
    1    row a    x x . . .     separate. Products of a few tokens are mostly overhead, so one
    2    row a    x x x . .     larger product costs less than several small ones.
    3    row b    - - - x .
    4    row b    - - - x x
      5..132 c    keys   5..132   <- block 2: a long row is cut into blocks of 128 queries.
    133..260 c    keys   5..260   <- block 3     Each multiplies only with the keys up to its end,
    261..304 c    keys   5..304   <- block 4     so half of the L x L table is skipped.

With P the probabilities and dO the gradient of the output, a block computes::

    Z = scale Q K^T + mask        P = softmax(Z)                     O = P V
    dV = P^T dO                   dZ = P * (dP - rowsum(P * dP))     where dP = dO V^T
    dQ = scale dZ K               dK = scale dZ^T Q

oneDNN computes the products in bf16. For each new shape it compiles a kernel, which takes ten times
as long as the product. So n is padded with zeros to a multiple of 32 there, and then S is one too:
blocks of all rows have the same few shapes. Padded keys lie in the future of all queries, and the
padded queries have no gradient, so the zeros change no result.

The G queries of a key head are stacked into one product, so keys are never repeated. In bf16,
forward and backward take 30 to 55 % of the fused kernel's time for rows of 32 to 512 tokens.
Backward reads P, which has L**2 / 2 numbers per head, so long rows use the fused kernel instead
(:mod:`tunesmith_torch.kernels.varlen_attention` decides).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunesmith_torch.kernels.padding import count_padding

BLOCK_SIZE = 128
"""Number of queries in a block."""


class AttentionSpec(NamedTuple):
    """The settings of an attention layer, such as its scale and window."""

    scale: float
    window: int | None
    softcap: float | None
    dropout: float
    block_size: int = BLOCK_SIZE


def block_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: tuple[int, ...], spec: AttentionSpec
) -> Tensor:
    """Compute causal attention within each row, [1, H, T, d] to [1, T, H, d].

    ``cu_seqlens`` holds the start of each row, and T. ``spec.softcap`` and ``spec.dropout`` are
    ignored, because the caller handles layers that have them.
    """
    out: Tensor = _BlockAttentionFunction.apply(q, k, v, cu_seqlens, spec)  # type: ignore[no-untyped-call]
    return out


class Block(NamedTuple):
    """Queries ``start`` to ``end``, and the keys ``first_key`` to ``end`` that they may see."""

    first_key: int
    start: int
    end: int
    row_lengths: tuple[int, ...]
    """Lengths of the complete rows in the block; empty if the block is a part of one row."""


def split_into_blocks(
    cu_seqlens: tuple[int, ...], window: int | None, block_size: int = BLOCK_SIZE
) -> Iterator[Block]:
    """Divide the rows into blocks: join short rows up to the block size, and split long rows."""
    capacity = block_size if window is None else min(block_size, window)
    pending: list[int] = []
    for start, stop in pairwise(cu_seqlens):
        if pending and start - pending[0] + stop - start > capacity:
            yield _block_of_rows(pending)
            pending = []
        if stop - start <= capacity:
            pending = [*(pending or [start]), stop]
            continue
        for a in range(start, stop, block_size):
            lo = start if window is None else max(start, a - window + 1)
            yield Block(lo, a, min(a + block_size, stop), ())
    if pending:
        yield _block_of_rows(pending)


def _block_of_rows(cu_seqlens: list[int]) -> Block:
    lengths = tuple(b - a for a, b in pairwise(cu_seqlens))
    return Block(cu_seqlens[0], cu_seqlens[0], cu_seqlens[-1], lengths)


class _BlockAttentionFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        q, k, v, ctx.cu_seqlens, ctx.spec = args
        (_, H, T, d), K = q.shape, k.shape[1]
        G, q_HTd, k_KTd, v_KTd = H // K, q[0], k[0], v[0]
        o_THd = q.new_empty(T, H, d)
        o_HTd = o_THd.transpose(0, 1)
        probabilities = []
        spec = ctx.spec
        blocks = split_into_blocks(ctx.cu_seqlens, spec.window, spec.block_size)
        for lo, a, end, row_lengths in blocks:
            padding = count_padding(q, end - a)
            n, S = end - a + padding, end - lo + padding
            q_KGnd = _take(q_HTd, a, end, padding).reshape(K, G * n, d)
            z = q.new_empty(K, G * n, S)
            keys = _take(k_KTd, lo, end, padding).transpose(1, 2)
            torch.baddbmm(z, q_KGnd, keys, beta=0, alpha=ctx.spec.scale, out=z)
            local = ctx.spec.window is not None and ctx.spec.window < S and not row_lengths
            # Without a window, only the last n keys can lie in a query's future. Every query of the
            # block sees all keys before them, so these need no mask.
            width = S if local else n
            window = ctx.spec.window if local else None
            if len(row_lengths) > 1:
                z += row_bias((*row_lengths, padding), 0, G, q.dtype)
            else:
                z[..., S - width :] += _causal_bias(n, width, window, G, q.dtype)
            p = torch.softmax(z, -1)
            o_Hnd = torch.bmm(p, _take(v_KTd, lo, end, padding)).view(H, n, d)
            o_HTd[:, a:end] = o_Hnd[:, : end - a]
            probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        packed: Tensor = o_THd[None]
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *probabilities = ctx.saved_tensors
        (_, H, _, d), K = q.shape, k.shape[1]
        G, do_HTd = H // K, grad_output[0].transpose(0, 1)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        written = q.shape[2]
        blocks = split_into_blocks(ctx.cu_seqlens, ctx.spec.window, ctx.spec.block_size)
        computed = list(zip(probabilities, blocks, strict=True))
        # In reverse, because the last block of a row sees all of the row's keys (without a window).
        # It assigns their gradients, and earlier blocks add to them. So dk and dv start empty.
        for p, (lo, a, end, _) in reversed(computed):
            padding = count_padding(q, end - a)
            n = end - a + padding
            do_KGnd = _take(do_HTd, a, end, padding).reshape(K, G * n, d)
            q_KGnd = _take(q[0], a, end, padding).reshape(K, G * n, d)
            dp = torch.bmm(do_KGnd, _take(v[0], lo, end, padding).transpose(1, 2))
            dz = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dq_Hnd = torch.bmm(dz, _take(k[0], lo, end, padding)).view(H, n, d)
            dq[0, :, a:end] = dq_Hnd[:, : end - a]
            unwritten = max(lo, min(end, written))  # the keys from lo to here have no gradient yet
            for total_KTd, part_KSd in (
                (dv[0], torch.bmm(p.transpose(1, 2), do_KGnd)),
                (dk[0], torch.bmm(dz.transpose(1, 2), q_KGnd)),
            ):
                total_KTd[:, lo:unwritten] = part_KSd[:, : unwritten - lo]
                total_KTd[:, unwritten:end] += part_KSd[:, unwritten - lo : end - lo]
            written = lo
        return dq.mul_(ctx.spec.scale), dk.mul_(ctx.spec.scale), dv, None, None


def _take(x_HTd: Tensor, start: int, end: int, padding: int) -> Tensor:
    """Return positions ``start`` to ``end``, followed by ``padding`` zeros.

    Contiguous in bf16, because products would copy their arguments otherwise, transposed ones
    slowly.
    """
    part_HSd = x_HTd[:, start:end]
    if padding:
        return nn.functional.pad(part_HSd, (0, 0, 0, padding))
    return part_HSd.contiguous() if x_HTd.dtype == torch.bfloat16 else part_HSd


@lru_cache(maxsize=64)
def causal_band(n: int, S: int, window: int | None, device: torch.device) -> Tensor:
    """Return the boolean mask [n, S] of keys that each of the last n of S positions may see."""
    mask_nS = torch.ones(n, S, dtype=torch.bool, device=device).tril_(S - n)
    return mask_nS if window is None else mask_nS.triu_(S - n - window + 1)


@lru_cache(maxsize=64)
def _causal_bias(n: int, S: int, window: int | None, G: int, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros(n, S, dtype=dtype)
    cpu = torch.device("cpu")
    return zero.masked_fill_(~causal_band(n, S, window, cpu), -torch.inf).repeat(G, 1)


@lru_cache(maxsize=256)
def row_bias(lengths: tuple[int, ...], shared: int, G: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask that keeps rows of one product separate, [G * n, shared + n].

    The n queries belong to rows of these lengths, one after the other. Each query sees the first
    ``shared`` keys, which precede all rows, and its own row up to itself. With ``lengths`` (2, 1)
    and ``shared`` 3::

        keys   shared   row 0  row 1
        row 0  0 0 0    0 -inf  -inf
        row 0  0 0 0    0  0    -inf
        row 1  0 0 0  -inf -inf   0
    """
    n = sum(lengths)
    rows, counts = torch.arange(len(lengths)), torch.tensor(lengths)
    row_n = torch.repeat_interleave(rows, counts, output_size=n)
    mask_nS = torch.ones(n, shared + n, dtype=torch.bool).tril_(shared)
    mask_nS[:, shared:] &= row_n[:, None] == row_n
    zero = torch.zeros(n, shared + n, dtype=dtype)
    return zero.masked_fill_(~mask_nS, -torch.inf).repeat(G, 1)


def clear_mask_cache() -> None:
    """Free the cached masks, such as the fake tensors that tracing leaves behind."""
    causal_band.cache_clear()
    _causal_bias.cache_clear()
    row_bias.cache_clear()
