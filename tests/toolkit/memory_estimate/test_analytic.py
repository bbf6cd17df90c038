"""The analytic estimate repeats constants of modules that it must not import."""

from __future__ import annotations

from tunesmith_torch.generation import text_model
from tunesmith_torch.kernels import block_attention, varlen_attention
from tunesmith_torch.losses import cross_entropy
from tunesmith_torch.memory_estimate import analytic


def test_repeated_constants_are_those_of_the_modules_that_use_them() -> None:
    assert cross_entropy.CHUNK_BYTES == analytic.LOGITS_CHUNK_BYTES
    assert text_model.SCORING_TOKENS == analytic.SCORING_TOKENS
    assert block_attention.BLOCK_SIZE == analytic.ATTENTION_BLOCK_SIZE
    assert varlen_attention.LONG_ROW_TOKENS == analytic.LONG_ROW_TOKENS
