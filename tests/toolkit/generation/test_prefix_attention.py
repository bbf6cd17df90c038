"""Attention to cached tokens has the same values whether queries share a reading of keys or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith_torch.generation import prefix_attention


def plain_attention(
    query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, bias: Tensor | None
) -> Tensor:
    """Compute one softmax per query in fp64."""
    groups = query_BHTD.shape[1] // key_BKSD.shape[1]
    key_BHSD, value_BHSD = (x.double().repeat_interleave(groups, 1) for x in (key_BKSD, value_BKSD))
    score_BHTS = query_BHTD.double() @ key_BHSD.transpose(-1, -2) * query_BHTD.shape[-1] ** -0.5
    if bias is not None:
        score_BHTS = score_BHTS + bias.double()
    return score_BHTS.softmax(-1) @ value_BHSD


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("in_groups", [True, False])
@pytest.mark.parametrize("tokens", [1, 3])
def test_queries_in_groups_and_alone_give_plain_attention(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, in_groups: bool, tokens: int
) -> None:
    monkeypatch.setattr(prefix_attention, "_is_faster_in_groups", lambda _: in_groups)
    torch.manual_seed(0)
    B, H, K, S, D = (2 if tokens == 1 else 1), 6, 2, 40, 16
    query = torch.randn(B, H, tokens, D).to(dtype)
    key, value = (torch.randn(B, K, S, D).to(dtype) for _ in range(2))
    if tokens == 1:
        bias = torch.zeros(B, 1, 1, S, dtype=dtype)
        bias[0, ..., :7] = float("-inf")
    else:
        bias = torch.zeros(1, 1, tokens, S, dtype=dtype)
        bias[..., -tokens:] = torch.full((tokens, tokens), float("-inf")).triu_(1)
    scale = D**-0.5
    out, _ = prefix_attention._attend_to_cache(query, key, value, bias, scale)
    expected = plain_attention(query, key, value, bias)
    error = float((out.double() - expected).abs().max())
    assert error < (1e-6 if dtype == torch.float32 else 2e-2)


def test_amx_reads_the_keys_once_per_query_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for flag in ("amx_bf16", "avx512_bf16"):
        monkeypatch.setattr(
            prefix_attention, "read_processor_flags", lambda flag=flag: frozenset({flag})
        )
        prefix_attention._is_faster_in_groups.cache_clear()
        found[flag] = [
            prefix_attention._is_faster_in_groups(dtype)
            for dtype in (torch.float32, torch.bfloat16)
        ]
    prefix_attention._is_faster_in_groups.cache_clear()
    assert found == {"amx_bf16": [True, False], "avx512_bf16": [True, True]}
