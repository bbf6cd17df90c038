"""Attention over packed rows: each row sees itself, and nothing else is computed.

Shapes: T tokens of a packed micro-batch, L those of a row, H heads, K key heads, G = H / K queries
per key, d head width.

A packed micro-batch is one row of T tokens whose ``position_ids`` restart where an example starts.
transformers masks that with a dense T x T table; here the boundaries arrive as the arguments it
keeps for flash attention (``cu_seq_lens_q``, ``max_length_q``) and every row is computed alone.
Without boundaries, all is left to transformers' own "sdpa". Both functions are registered with
``AttentionInterface`` and ``AttentionMaskInterface``: no model is patched.

On the CPU, rows go through :mod:`tunesmith_torch.kernels.block_attention`, unless they are long. On CUDA
all rows go to ``torch.nn.attention.varlen`` at once.
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
from tunesmith_torch.kernels.block_attention import How, band
from tunesmith_torch.kernels.packed_mask import DeferredMask, packed_mask, refusal

NAME = "tunesmith_packed"
LONG = 1024
"""Tokens of a row whose probabilities are worth keeping on a CPU."""


def register() -> str:
    """Make "tunesmith_packed" known to transformers; ``model.set_attn_implementation(register())``.

    Doing so again is harmless.
    """
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, packed_mask)
    return NAME


def packed_attention(  # noqa: PLR0913 - transformers calls it so
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | DeferredMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend within rows, [1, H, T, d] to [1, T, H, d]; without boundaries, do what "sdpa" does."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = How(scale, sliding_window, softcap, dropout)
    if cu_seq_lens_q is None:
        table = attention_mask.table if isinstance(attention_mask, DeferredMask) else attention_mask
        if softcap is not None:  # "sdpa" knows no softcap and would raise
            return _by_hand(query, key, value, table, how).transpose(1, 2).contiguous(), None
        sdpa = AttentionInterface()["sdpa"]
        sdpa_options = {"dropout": dropout, "scaling": scaling, **kwargs}
        out, _ = sdpa(module, query, key, value, table, **sdpa_options)
        return out, None
    _check(module, query, key, attention_mask, sliding_window, kwargs)
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if _varlen_can(query, how):
        return _varlen(query, key, value, cu_seq_lens_q, max_length_q, how), None
    cuts = tuple(cu_seq_lens_q.tolist())
    if cuts[-1] != query.shape[2]:
        raise refusal(f"the boundaries end at {cuts[-1]} of {query.shape[2]} tokens")
    if isinstance(attention_mask, DeferredMask) and query.is_cpu:
        attention_mask.agree(cuts)
    return _row_by_row(query, key, value, cuts, how), None


def _check(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | DeferredMask | None,
    window: int | None,
    kwargs: dict[str, Any],
) -> None:
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise refusal(f"needs one row of tokens and no cache, got {tuple(query.shape)}")
    if isinstance(mask, Tensor):
        raise refusal("an attention mask was given beside the boundaries")
    if isinstance(mask, DeferredMask) and mask.window != window:
        raise refusal(f"its mask is local ({mask.window}) in a way its attention is not ({window})")
    causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise refusal("its attention is not causal")
    if unknown := [n for n in ("s_aux", "position_bias") if kwargs.get(n) is not None]:
        raise refusal(f"its attention uses `{unknown[0]}`")


def _row_by_row(q: Tensor, k: Tensor, v: Tensor, cuts: tuple[int, ...], how: How) -> Tensor:
    lengths = [stop - start for start, stop in pairwise(cuts)]
    plain = how.softcap is None and how.dropout == 0.0
    if plain and q.is_cpu and max(lengths) <= LONG:
        return block_attention.attend(q, k, v, cuts, how)
    outs = []
    for q_row, k_row, v_row in zip(*(torch.split(x, lengths, 2) for x in (q, k, v)), strict=True):
        L = q_row.shape[2]
        if plain and q.is_cpu and L <= LONG:
            outs.append(block_attention.attend(q_row, k_row, v_row, (0, L), how))
        elif how.softcap is not None or (how.window is not None and how.window < L):
            may_LL = band(L, L, how.window, q.device)
            outs.append(_by_hand(q_row, k_row, v_row, may_LL, how).transpose(1, 2))
        else:
            out = nn.functional.scaled_dot_product_attention(
                q_row,
                k_row,
                v_row,
                dropout_p=how.dropout,
                is_causal=True,
                scale=how.scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            outs.append(out.transpose(1, 2))
    return torch.cat(outs, 1)


def _by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: How) -> Tensor:
    """Attention with a softcap, or with a window that a fused kernel cannot express."""
    G = q.shape[1] // k.shape[1]
    z = q @ k.repeat_interleave(G, 1).transpose(2, 3) * how.scale
    if how.softcap is not None:
        z = torch.tanh(z / how.softcap) * how.softcap
    if mask is None and q.shape[2] > 1:
        mask = band(q.shape[2], k.shape[2], None, q.device)
    if mask is not None:
        # The least finite number: a padding token that may see nothing must not become NaN.
        least = torch.finfo(z.dtype).min
        z = z.masked_fill(~mask, least) if mask.dtype == torch.bool else z + mask
    p = torch.softmax(z, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return nn.functional.dropout(p, how.dropout) @ v.repeat_interleave(G, 1)


def _varlen_can(q: Tensor, how: How) -> bool:
    plain = how.softcap is None and how.dropout == 0.0 and q.shape[-1] <= 256
    return q.is_cuda and plain and q.dtype in (torch.bfloat16, torch.float16) and _has_varlen()


@lru_cache(maxsize=1)
def _has_varlen() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa", "scale"} <= set(inspect.signature(varlen_attn).parameters)


def _varlen(q: Tensor, k: Tensor, v: Tensor, cuts: Tensor, longest: int | None, how: How) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    most = q.shape[2] if longest is None else longest
    left = -1 if how.window is None else how.window - 1
    q_THd, k_TKd, v_TKd = (x[0].transpose(0, 1) for x in (q, k, v))
    out = varlen_attn(
        q_THd, k_TKd, v_TKd, cuts, cuts, most, most,
        scale=how.scale, window_size=(left, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out[None]
