"""Attention to cached tokens: the prefix that all rows share, and each row's own tokens.

Shapes: B rows, T new tokens, P tokens of the common prefix, S slots of the cache, H heads of
queries, K heads of keys and values, D head width. A row has R = T * H / K queries per head of keys,
and all rows together have N.

A :class:`Prefix` is computed once and stored once for all rows. The queries of all rows are
multiplied with its keys in one product. With p and q, the logarithms of the sums of ``exp(score)``
over both parts, the output of row b is that of one softmax over all scores::

    prefix        out_p, p = attention(q_b, prefix keys, prefix values)
    own tokens    out_q, q = attention(q_b, own keys, own values)
    output        out_q + sigmoid(p - q) (out_p - out_q)

This is Hydragen (Juravsky et al. 2024, arXiv 2402.05099, section 3). On a CPU, torch's fused kernel
returns both. On a GPU, it does not return the sums, and one softmax spans the scores of both parts.

Of transformers, the module only uses public interfaces: an attention function registered by name,
and 4-dimensional masks, which models pass on unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from tunesmith_torch.runtime.machine import read_processor_flags

ATTENTION_NAME = "tunesmith_cached"
_fused_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_SCORE_OPTIONS = ("softcap", "s_aux", "position_bias", "sinks")
"""Options that change attention scores and are not implemented here."""


class UnsupportedModel(Exception):
    """Raised if the model's attention needs a feature that this module lacks."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the initial tokens that all rows share, stored once."""

    length: int
    """Number of tokens in the prefix, P."""
    keys: Sequence[Tensor]
    """One tensor per layer, shape 1KPD: K heads of keys, head width D."""
    values: Sequence[Tensor]
    """One tensor per layer, with the same shape."""


_prefix: ContextVar[Prefix | None] = ContextVar("prefix", default=None)


@contextmanager
def use_cached_attention(model: PreTrainedModel, prefix: Prefix | None = None) -> Iterator[None]:
    """Inside the block, make the model use this module's attention, with a prefix of all rows."""
    before = model.config._attn_implementation
    token = _prefix.set(prefix)
    try:
        AttentionInterface.register(ATTENTION_NAME, _attention)
        model.set_attn_implementation(ATTENTION_NAME)
        yield
    finally:
        model.set_attn_implementation(before)
        _prefix.reset(token)


def prefill_mask(tokens: int, prefix: int, padding_B: Tensor | None) -> Tensor | None:
    """Return the keys that each new token sees: bool, shape B1T(P+T).

    None means causal: the whole prefix, and the new tokens up to the token itself. Padding before a
    row's tokens sees itself, because a softmax over nothing would be NaN.
    """
    if padding_B is None or tokens == 1:
        return None
    column_S = torch.arange(-prefix, tokens, device=padding_B.device)
    visible_BS = (column_S < 0) | (column_S >= padding_B[:, None])
    row_T = column_S[prefix:, None]
    return ((column_S <= row_T) & visible_BS[:, None, None, :]) | (column_S == row_T)


# --------------------------------------------------------------------------- attention


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that models call; returns shape BTHD."""
    if any(options.get(name) is not None for name in _SCORE_OPTIONS):
        raise UnsupportedModel("the model's attention uses options that change its scores")
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    prefix, layer = _prefix.get(), cast(int, module.layer_idx)
    layer_prefix = None if prefix is None else (prefix.keys[layer], prefix.values[layer])
    if query.is_cpu and query.shape[-1] == value.shape[-1]:
        return _attention_on_cpu(query, key, value, attention_mask, layer_prefix, scale), None
    if query.shape[2] == 1 or query.shape[2] < key.shape[2]:  # there are cached tokens
        return _decode(query * scale, key, value, attention_mask, layer_prefix), None
    return _prefill(query, key, value, attention_mask, layer_prefix, scale), None


def _attention_on_cpu(
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    mask: Tensor | None,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
) -> Tensor:
    """Compute attention with torch's fused kernel; return shape BTHD."""
    B, H, T, D = query_BHTD.shape
    attend = _attend_to_prompt if key_BKSD.shape[2] == T > 1 else _attend_to_cache
    out_BHTD, own_BHT = attend(query_BHTD, key_BKSD, value_BKSD, mask, scale)
    if prefix is not None:
        query_1HND = query_BHTD.transpose(0, 1).reshape(1, H, B * T, D)
        shared_1HND, shared_1HN = _fused_attention(query_1HND, *prefix, scale=scale)
        share_BHT = (shared_1HN.reshape(H, B, T).transpose(0, 1) - own_BHT).sigmoid()
        shared_BHTD = shared_1HND.view(H, B, T, D).transpose(0, 1)
        out_BHTD = out_BHTD.lerp(shared_BHTD, share_BHT.to(out_BHTD.dtype)[..., None])
    return out_BHTD.transpose(1, 2)


def _attend_to_cache(
    query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend to all keys, with a bias of shape B11S or 11TS."""
    B, H, T, D = query_BHTD.shape
    K = key_BKSD.shape[1] if _is_faster_in_groups(query_BHTD.dtype) else H
    mask = bias if bias is None or T == 1 else bias.repeat(1, 1, H // K, 1)
    query_BKRD = query_BHTD.reshape(B, K, -1, D)
    out, own = _fused_attention(query_BKRD, key_BKSD, value_BKSD, attn_mask=mask, scale=scale)
    return out.reshape(B, H, T, D), own.reshape(B, H, T)


@cache
def _is_faster_in_groups(dtype: torch.dtype) -> bool:
    """Return True if all queries of a head of keys should share one reading of its keys.

    In bf16, that takes a fifth of the time with AVX512-BF16, but longer with AMX.
    """
    return dtype == torch.float32 or "amx_bf16" not in read_processor_flags()


def _attend_to_prompt(
    query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend to the token itself and those before it, except padding on the left of a row.

    Row by row and without a mask, so that the kernel skips padding and the future. Results for
    padding are zero.
    """
    B, H, T, _ = query_BHTD.shape
    out_BHTD, own_BHT = torch.zeros_like(query_BHTD), query_BHTD.new_zeros(B, H, T).float()
    # The last query sees all keys of its row, so the keys that it does not see are padding.
    padding = [0] * B if mask is None else (~mask[:, 0, -1, -T:]).sum(-1).tolist()
    for row, start in enumerate(padding):
        tokens = slice(row, row + 1), slice(None), slice(start, None)
        out_BHTD[tokens], own_BHT[tokens] = _fused_attention(
            query_BHTD[tokens], key_BKTD[tokens], value_BKTD[tokens], is_causal=True, scale=scale
        )
    return out_BHTD, own_BHT


def _decode(
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    bias_B1TS: Tensor | None,
    prefix: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Compute attention for one or a few new tokens per row; return shape BTHD."""
    (B, H, T, D), K, S = query_BHTD.shape, key_BKSD.shape[1], key_BKSD.shape[2]
    R = H // K * T
    query_BKRD = query_BHTD.reshape(B, K, R, D)
    score_BKRS = query_BKRD @ key_BKSD.transpose(-1, -2)
    if bias_B1TS is not None:
        score_BKRS.view(B, H, T, S).add_(bias_B1TS)
    if prefix is None:
        out_BKRD = score_BKRS.softmax(-1) @ value_BKSD
        return out_BKRD.view(B, H, T, -1).transpose(1, 2)
    key_KPD, value_KPD = prefix[0][0], prefix[1][0]
    P = key_KPD.shape[1]
    rows_KND = query_BKRD.transpose(0, 1).reshape(K, B * R, D)
    score_KNP = rows_KND @ key_KPD.transpose(-1, -2)
    score_BKRP = score_KNP.view(K, B, R, P).transpose(0, 1)
    weight = torch.cat([score_BKRP, score_BKRS], -1).softmax(-1)
    weight_KNP = weight[..., :P].transpose(0, 1).reshape(K, B * R, P)
    out_BKRD = (weight_KNP @ value_KPD).view(K, B, R, -1).transpose(0, 1)
    out_BKRD = out_BKRD + weight[..., P:] @ value_BKSD
    return out_BKRD.reshape(B, H, T, -1).transpose(1, 2)


def _prefill(
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    mask: Tensor | None,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
) -> Tensor:
    """Compute attention for many new tokens per row; return shape BTHD.

    The prefix is copied for each row, but only for one layer at a time.
    """
    (B, H, T, _), K = query_BHTD.shape, key_BKTD.shape[1]
    if mask is None and prefix is not None:
        shared = prefix[0].shape[2]
        mask = torch.ones(T, shared + T, dtype=torch.bool, device=query_BHTD.device)
        mask = mask.tril_(shared)[None, None]
    if prefix is not None:
        key_BKTD, value_BKTD = (
            torch.cat([shared.expand(B, -1, -1, -1), new], 2)
            for shared, new in zip(prefix, (key_BKTD, value_BKTD), strict=True)
        )
    if mask is not None and K != H:  # fused kernels with a mask do not support grouped queries
        key_BKTD = key_BKTD.repeat_interleave(H // K, 1)
        value_BKTD = value_BKTD.repeat_interleave(H // K, 1)
    out_BHTD = functional.scaled_dot_product_attention(
        query_BHTD,
        key_BKTD,
        value_BKTD,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=mask is None and K != H,
    )
    return out_BHTD.transpose(1, 2).contiguous()
