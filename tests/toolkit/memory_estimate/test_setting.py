"""The setting of an estimate resolves ``precision = "auto"`` as a training does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tunesmith.estimates import Assumptions, EstimateRequest
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.memory_estimate import setting
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.runtime.machine import MIN_BF16_HIDDEN_SIZE

REQUEST = EstimateRequest(
    config={
        "model_type": "llama", "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
        "tie_word_embeddings": True, "max_position_embeddings": 512,
    },
    tokenizer=None, train=(), test=(), device="cpu", assumed=Assumptions(sequence=64, rows=64),
)  # fmt: skip


@pytest.mark.parametrize("flags", [{"amx_bf16"}, {"avx2"}])
@pytest.mark.parametrize("hidden_size", [MIN_BF16_HIDDEN_SIZE // 2, MIN_BF16_HIDDEN_SIZE])
def test_the_automatic_precision_is_that_of_training(
    flags: set[str], hidden_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "read_processor_flags", lambda: frozenset(flags))
    request = replace(REQUEST, config={**REQUEST.config, "hidden_size": hidden_size})
    precision = pick_precision(
        torch.device("cpu"), hidden_size=hidden_size, cpu_flags=frozenset(flags)
    )
    found = EstimateSetting.from_request(FullOptions(), request).compute_bytes
    assert found == precision.dtype.itemsize
