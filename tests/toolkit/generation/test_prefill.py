"""Prompts of different lengths in one pass, and the next tokens from the cache."""

from __future__ import annotations

import torch

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
