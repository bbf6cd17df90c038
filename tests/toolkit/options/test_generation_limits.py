"""Limits of generation: a token budget for small models, a byte limit for large ones."""

from __future__ import annotations

import pytest

from tunesmith_torch.options.generation_limits import (
    MAX_CACHE_BYTES,
    TOKEN_BUDGET,
    max_cached_tokens,
)


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [
        ((3, 64, 30, 4), TOKEN_BUDGET),  # 135M in fp32
        ((32, 128, 32, 2), 4096),  # 7B, as many key heads as query heads
        ((8, 128, 32, 2), TOKEN_BUDGET),  # 8B with grouped heads
        ((64, 128, 80, 2), 819),  # 65B
        ((10**6, 10**3, 10**3, 4), 1),
    ],
)
def test_cached_tokens_fit_into_the_byte_limit(
    shape: tuple[int, int, int, int], tokens: int
) -> None:
    assert max_cached_tokens(*shape) == tokens
    heads, width, layers, item = shape
    assert tokens == 1 or 2 * heads * width * layers * item * tokens <= MAX_CACHE_BYTES


def test_a_text_model_uses_the_token_budget() -> None:
    import torch

    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.generation.text_model import TorchTextModel
    from tunesmith_torch.testing.tiny_model import build_tiny_model, build_tiny_tokenizer

    model, template = build_tiny_model(), Template.from_tokenizer(build_tiny_tokenizer())
    assert TorchTextModel(model, template, torch.device("cpu")).token_budget == TOKEN_BUDGET
    assert TorchTextModel(model, template, torch.device("cpu"), 7).token_budget == 7
