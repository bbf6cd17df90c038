"""How many tokens generation keeps: many for small models, what fits for large ones."""

from __future__ import annotations

import pytest

from tunesmith_torch.options.generation_limits import CACHE_BYTES, TOKEN_BUDGET, cached_tokens


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [
        ((3, 64, 30, 4), TOKEN_BUDGET),  # 135M in fp32
        ((32, 128, 32, 2), 4096),  # 7B, a head of keys for each of queries
        ((8, 128, 32, 2), TOKEN_BUDGET),  # 8B with grouped heads
        ((64, 128, 80, 2), 819),  # 65B
        ((10**6, 10**3, 10**3, 4), 1),
    ],
)
def test_as_many_as_there_are_bytes(shape: tuple[int, int, int, int], tokens: int) -> None:
    assert cached_tokens(*shape) == tokens
    heads, width, layers, item = shape
    assert tokens == 1 or 2 * heads * width * layers * item * tokens <= CACHE_BYTES


def test_a_text_model_keeps_to_it() -> None:
    import torch

    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.generation.text_model import TorchTextModel
    from tunesmith_torch.testing.tiny_model import tiny_model, tiny_tokenizer

    model, template = tiny_model(), Template.of(tiny_tokenizer())
    assert TorchTextModel(model, template, torch.device("cpu")).token_budget == TOKEN_BUDGET
    assert TorchTextModel(model, template, torch.device("cpu"), 7).token_budget == 7
