"""Prompts of different lengths in one pass, and the next tokens from the cache."""

from __future__ import annotations

import pytest
import torch

from tunesmith_torch.generation import prefix_cache
from tunesmith_torch.generation.kv_cache import DecodingCache
from tunesmith_torch.generation.prefill import decode_next, prefill
from tunesmith_torch.generation.prefix_attention import use_cached_attention
from tunesmith_torch.testing.tiny_model import build_tiny_model


@torch.inference_mode()
def test_logits_are_those_of_each_row_alone() -> None:
    """A prompt that occurs twice gets a row each time."""
    model, cache = build_tiny_model(), DecodingCache(None)
    prompts, nexts = [[5, 6, 7, 8], [9, 10], [5, 6, 7, 8]], [11, 12, 13]

    def alone(ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1]
        return logits

    expected = torch.stack([alone(prompt) for prompt in prompts])
    expected_next = torch.stack([alone([*p, n]) for p, n in zip(prompts, nexts, strict=True)])
    with use_cached_attention(model):
        torch.testing.assert_close(prefill(model, prompts, cache), expected)
        assert cache.num_rows == 3
        torch.testing.assert_close(decode_next(model, torch.tensor(nexts), cache), expected_next)


@pytest.mark.parametrize("shared", [0, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_prompts_of_different_lengths_give_the_logits_of_each_row_alone(
    shared: int, dtype: torch.dtype
) -> None:
    model = build_tiny_model().to(dtype)
    numbers = torch.Generator().manual_seed(0)
    common = torch.randint(100, (shared,), generator=numbers).tolist()
    prompts = [
        torch.randint(100, (length,), generator=numbers).tolist()
        for length in (33, 32, 25, 9, 8, 1)
    ]
    alone = [model(input_ids=torch.tensor([common + prompt])).logits[0, -1] for prompt in prompts]
    prefix = prefix_cache.compute_prefix(model, common) if shared else None
    cache = DecodingCache(prefix)
    with use_cached_attention(model, prefix):
        found = prefill(model, prompts, cache)
        next_found = decode_next(model, torch.full((len(prompts),), 5), cache)
    atol = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=atol)
    alone = [
        model(input_ids=torch.tensor([[*common, *prompt, 5]])).logits[0, -1] for prompt in prompts
    ]
    torch.testing.assert_close(next_found, torch.stack(alone), rtol=1e-4, atol=atol)
