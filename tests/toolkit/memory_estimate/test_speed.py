"""The speed of a layer of the model is measured on this machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunesmith.errors import UsageError
from tunesmith_torch.memory_estimate.speed import measure_speed

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 500, "pad_token_id": 499, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 9, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.mark.parametrize("compute_bytes", [2, 4])
def test_a_generated_token_takes_longer_than_one_of_a_prompt(compute_bytes: int) -> None:
    state = torch.random.get_rng_state()
    speed = measure_speed(LLAMA, compute_bytes, 256)
    assert speed.training > 0 and speed.forward > 0
    assert speed.generated_token >= 1
    assert torch.equal(torch.random.get_rng_state(), state), "a run draws the same numbers"


def test_other_families_and_short_steps_are_measured_too() -> None:
    qwen = {**LLAMA, "model_type": "qwen3", "head_dim": 16}
    assert measure_speed(qwen, 4, 1).generated_token == pytest.approx(1, rel=2)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UsageError, match="odd"):
        measure_speed({**LLAMA, "model_type": "odd"}, 4, 256)
