"""Attention to cached tokens: the prefix that all rows share, and each row's own tokens.

Shapes: B rows, T new tokens, P tokens of the common prefix, S slots of the cache, H heads of
queries, K heads of keys and values, G = H / K, D head width, R = B * G.

A :class:`Prefix` is computed once and stored once for all rows. When each row decodes one token,
one matrix product multiplies the queries of all rows with the keys of the prefix. One softmax spans
the scores of both parts::

    scores of row b    [ q_b @ prefix keys | q_b @ own keys ]  -> softmax ->  weights
    output of row b      weights[:P] @ prefix values  +  weights[P:] @ own values

This is the idea of Hydragen (Juravsky et al. 2024, arXiv 2402.05099, section 3), with one softmax
instead of two.

The module only uses public interfaces of transformers: an attention function registered by name,
and 4-dimensional masks, which models pass on unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

ATTENTION_NAME = "tunesmith_cached"
QUERY_BLOCK = 64
"""Number of queries per block on a CPU."""

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
    if query.shape[2] == 1:
        return _decode(query * scale, key, value, attention_mask, layer_prefix), None
    return _prefill(query, key, value, attention_mask, layer_prefix, scale), None


def _decode(
    query_BH1D: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    bias_B11S: Tensor | None,
    prefix: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Compute attention for one new token per row.

    Plain products suffice, because fused kernels are no faster for a single query.
    """
    (B, H, _, D), K = query_BH1D.shape, key_BKSD.shape[1]
    query_BKGD = query_BH1D.view(B, K, H // K, D)
    score_BKGS = query_BKGD @ key_BKSD.transpose(-1, -2)
    if bias_B11S is not None:
        score_BKGS += bias_B11S
    if prefix is None:
        weight_BKGS = score_BKGS.softmax(-1, dtype=torch.float32).to(value_BKSD.dtype)
        return (weight_BKGS @ value_BKSD).reshape(B, 1, H, -1)
    key_KPD, value_KPD = prefix[0][0], prefix[1][0]
    P, G = key_KPD.shape[1], H // K
    rows_KRD = query_BKGD.transpose(0, 1).reshape(K, B * G, D)
    score_KRP = rows_KRD @ key_KPD.transpose(-1, -2)
    score_BKGP = score_KRP.view(K, B, G, P).transpose(0, 1)
    score = torch.cat([score_BKGP, score_BKGS], -1)
    weight = score.softmax(-1, dtype=torch.float32).to(value_BKSD.dtype)
    weight_KRP = weight[..., :P].transpose(0, 1).reshape(K, B * G, P)
    out_BKGD = (weight_KRP @ value_KPD).view(K, B, G, -1).transpose(0, 1)
    return (out_BKGD + weight[..., P:] @ value_BKSD).reshape(B, 1, H, -1)


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
    if query_BHTD.is_cpu:
        return _prefill_in_blocks(query_BHTD * scale, key_BKTD, value_BKTD, mask, prefix)
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


def _prefill_in_blocks(
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    mask: Tensor | None,
    prefix: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Compute :func:`_prefill` on a CPU, row by row, in blocks of queries that fit its cache.

    This takes half the time of the fused kernel with a mask, because it skips padding and the keys
    after a block, and computes grouped queries in one product. The output of padding is zero.
    """
    (B, H, T, _), K = query_BHTD.shape, key_BKTD.shape[1]
    P = 0 if prefix is None else prefix[0].shape[2]
    # The last query sees all keys of its row, so the keys that it does not see are padding.
    padding = [0] * B if mask is None else (~mask[:, 0, -1, P:]).sum(-1).tolist()
    future = torch.ones(QUERY_BLOCK, QUERY_BLOCK, dtype=torch.bool).triu_(1)
    out_BTHD = query_BHTD.new_zeros(B, T, H, value_BKTD.shape[-1])
    for row, start in enumerate(padding):
        key_KSD, value_KSD = key_BKTD[row, :, start:], value_BKTD[row, :, start:]
        if prefix is not None:
            key_KSD = torch.cat([prefix[0][0], key_KSD], 1)
            value_KSD = torch.cat([prefix[1][0], value_KSD], 1)
        for first in range(start, T, QUERY_BLOCK):
            end = min(first + QUERY_BLOCK, T)
            n, num_visible = end - first, P + end - start
            query_KRD = query_BHTD[row, :, first:end].reshape(K, H // K * n, -1)
            score = query_KRD @ key_KSD[:, :num_visible].transpose(1, 2)
            # Only the last n keys can lie in a query's future.
            diagonal = score.view(H, n, num_visible)[..., num_visible - n :]
            diagonal.masked_fill_(future[:n, :n], float("-inf"))
            out_KRD = score.softmax(-1) @ value_KSD[:, :num_visible]
            out_BTHD[row, first:end] = out_KRD.view(H, n, -1).transpose(0, 1)
    return out_BTHD
