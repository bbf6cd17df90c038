"""Attention over packed rows, where each row only attends to itself.

Shapes: T tokens of a packed micro-batch, L tokens of a row, H heads, K key heads, G = H / K queries
per key head, d head width.

A packed micro-batch is one sequence of T tokens whose ``position_ids`` restart at each row::

    tokens          a0  a1  a2 | b0  b1 | c0  c1  c2  c3
    position_ids     0   1   2 |  0   1 |  0   1   2   3
    cu_seq_lens_q    0         |  3     |  5              9     R + 1 boundaries of R rows

Of the T x T table of scores, only the causal triangles on the diagonal are needed::

    keys     a a a | b b | c c c c
             ----------------------
    query a  x . . | . . | . . . .       x  score that is needed
    query a  x x . | . . | . . . .       .  never seen: another row, or the future
    query a  x x x | . . | . . . .
    query b  . . . | x . | . . . .
    query b  . . . | x x | . . . .
    query c  . . . | . . | x . . .
    query c  . . . | . . | x x . .       and so on

transformers would compute all of them and mask most. Here the boundaries arrive as the arguments
that transformers passes to flash attention (``cu_seq_lens_q``, ``max_length_q``), and every row is
computed alone. No model is patched: ``AttentionInterface`` and ``AttentionMaskInterface`` register
both functions. :func:`packed_attention` chooses a kernel::

    no boundaries: padded rows           | transformers' "sdpa" with its dense mask
      and with a softcap                 | plain products with that mask
    CUDA in bf16 or fp16, no softcap,    |
      no dropout, head width up to 256   | torch.nn.attention.varlen, all rows in one call
    CPU, rows of up to 1024 tokens,      |
      no softcap, no dropout             | block_attention
    softcap, or window shorter than row  | plain products with a mask, row by row
    any other                            | torch's fused kernel, row by row
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tunesmith_torch.kernels import block_attention
from tunesmith_torch.kernels.block_attention import AttentionSpec, causal_band
from tunesmith_torch.kernels.packed_mask import LazyMask, packed_mask, packing_problem

ATTENTION_NAME = "tunesmith_packed"
LONG_ROW_TOKENS = 1024
"""Longer rows use the fused kernel on a CPU, which does not store L x L probabilities."""


def register_varlen_attention() -> str:
    """Register packed attention with transformers, which may be repeated; return its name.

    Use it as ``model.set_attn_implementation(register_varlen_attention())``.
    """
    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, packed_mask)
    return ATTENTION_NAME


def packed_attention(  # noqa: PLR0913 - transformers calls it so
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | LazyMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention within rows, [1, H, T, d] to [1, T, H, d]; "sdpa" without boundaries.

    transformers calls this in every layer. ``cu_seq_lens_q`` has the boundaries of the rows, and
    ``max_length_q`` the length of the longest row.

    Raises:
        EnvironmentProblem: the model's attention or mask is not causal within rows, or the
            attention uses a feature that is not supported.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    spec = AttentionSpec(scale, sliding_window, softcap, dropout)
    # Attention sinks and position biases change the scores: dropping them silently would be wrong.
    if ignored := [n for n in ("s_aux", "position_bias") if kwargs.get(n) is not None]:
        raise packing_problem(f"the model's attention uses `{ignored[0]}`")
    if cu_seq_lens_q is None:
        # Padded rows, which also have B > 1: the model's mask decides which tokens see which.
        table = attention_mask.table if isinstance(attention_mask, LazyMask) else attention_mask
        if softcap is not None:  # "sdpa" has no softcap and would raise
            return _eager_attention(query, key, value, table, spec).transpose(
                1, 2
            ).contiguous(), None
        sdpa = AttentionInterface()["sdpa"]
        sdpa_options = {"dropout": dropout, "scaling": scaling, **kwargs}
        out, _ = sdpa(module, query, key, value, table, **sdpa_options)
        return out, None
    if value.shape[-1] != query.shape[-1]:
        raise packing_problem("the model's values and keys differ in width")
    _check_supported(module, query, key, attention_mask, sliding_window, kwargs)
    # Autocast does not convert the arguments of these kernels, and norms may have returned fp32.
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if _can_use_varlen(query, spec):
        return _varlen_kernel(query, key, value, cu_seq_lens_q, max_length_q, spec), None
    # The varlen kernel reads the boundaries on the GPU; here Python needs them as numbers.
    cu_seqlens = tuple(cu_seq_lens_q.tolist())
    if cu_seqlens[-1] != query.shape[2]:
        end, tokens = cu_seqlens[-1], query.shape[2]
        raise packing_problem(f"the row boundaries end at {end}, but there are {tokens} tokens")
    # The mask is not applied; this checks that it agrees with the boundaries.
    if isinstance(attention_mask, LazyMask) and query.is_cpu:
        attention_mask.check_matches(cu_seqlens)
    return _attend_row_by_row(query, key, value, cu_seqlens, spec), None


def _check_supported(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | LazyMask | None,
    window: int | None,
    kwargs: dict[str, Any],
) -> None:
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        shape = tuple(query.shape)
        what = f"the queries must be one sequence of tokens without a cache, got shape {shape}"
        raise packing_problem(what)
    if isinstance(mask, Tensor):
        raise packing_problem("got both an attention mask and row boundaries (cu_seq_lens_q)")
    if isinstance(mask, LazyMask) and mask.window != window:
        mismatch = f"the sliding windows of mask ({mask.window}) and attention ({window}) differ"
        raise packing_problem(mismatch)
    causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise packing_problem("the model's attention is not causal")


def _attend_row_by_row(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: tuple[int, ...], spec: AttentionSpec
) -> Tensor:
    lengths = [stop - start for start, stop in pairwise(cu_seqlens)]
    plain = spec.softcap is None and spec.dropout == 0.0
    if plain and q.is_cpu and max(lengths) <= LONG_ROW_TOKENS:
        return block_attention.block_attention(q, k, v, cu_seqlens, spec)
    outs = []
    for q_row, k_row, v_row in zip(*(torch.split(x, lengths, 2) for x in (q, k, v)), strict=True):
        L = q_row.shape[2]
        if plain and q.is_cpu and L <= LONG_ROW_TOKENS:
            outs.append(block_attention.block_attention(q_row, k_row, v_row, (0, L), spec))
        elif spec.softcap is not None or (spec.window is not None and spec.window < L):
            mask_LL = causal_band(L, L, spec.window, q.device)
            outs.append(_eager_attention(q_row, k_row, v_row, mask_LL, spec).transpose(1, 2))
        else:
            out = nn.functional.scaled_dot_product_attention(
                q_row,
                k_row,
                v_row,
                dropout_p=spec.dropout,
                is_causal=True,
                scale=spec.scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            outs.append(out.transpose(1, 2))
    return torch.cat(outs, 1)


def _eager_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, spec: AttentionSpec
) -> Tensor:
    """Compute attention with a softcap, or with a window that fused kernels do not support."""
    G = q.shape[1] // k.shape[1]
    z = q @ k.repeat_interleave(G, 1).transpose(2, 3) * spec.scale
    if spec.softcap is not None:
        z = torch.tanh(z / spec.softcap) * spec.softcap
    if mask is None and q.shape[2] > 1:
        mask = causal_band(q.shape[2], k.shape[2], None, q.device)
    if mask is not None:
        # The lowest finite number, not -inf: a padding token that sees no key would become NaN.
        lowest = torch.finfo(z.dtype).min
        z = z.masked_fill(~mask, lowest) if mask.dtype == torch.bool else z + mask
    p = torch.softmax(z, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return nn.functional.dropout(p, spec.dropout) @ v.repeat_interleave(G, 1)


def _can_use_varlen(q: Tensor, spec: AttentionSpec) -> bool:
    plain = spec.softcap is None and spec.dropout == 0.0 and q.shape[-1] <= 256
    return q.is_cuda and plain and q.dtype in (torch.bfloat16, torch.float16) and _has_varlen()


@lru_cache(maxsize=1)
def _has_varlen() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa", "scale"} <= set(inspect.signature(varlen_attn).parameters)


def _varlen_kernel(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_length: int | None, spec: AttentionSpec
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    max_seqlen = q.shape[2] if max_length is None else max_length
    left = -1 if spec.window is None else spec.window - 1
    q_THd, k_TKd, v_TKd = (x[0].transpose(0, 1) for x in (q, k, v))
    out = varlen_attn(
        q_THd, k_TKd, v_TKd, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen,
        scale=spec.scale, window_size=(left, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out[None]
