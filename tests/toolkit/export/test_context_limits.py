"""Windows and ropes that depend on the length of a text are found in a config."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith_torch.export.context_limits import ContextLimit, find_context_limits
from tunesmith_torch.testing.tiny_model import build_tiny_config

ROPE = {"rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {}, []),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "yarn"}}, []),
        (
            "llama",
            {"rope_parameters": {**ROPE, "rope_type": "dynamic"}},
            [ContextLimit("RoPE scaling (dynamic) beyond 512 tokens", 512, 512)],
        ),
        (
            "phi3",
            {"rope_parameters": {**ROPE, **FACTORS, "rope_type": "longrope"}},
            [ContextLimit("RoPE scaling (longrope) beyond 64 tokens", 64, 512)],
        ),
        (
            "mistral",
            {"sliding_window": 96},
            [ContextLimit("sliding attention over 96 tokens", 96, 512)],
        ),
        ("mistral", {"sliding_window": 512}, []),
        ("mistral", {"sliding_window": None}, []),
        ("qwen2", {"sliding_window": 96, "use_sliding_window": False}, []),
        (
            "gemma2",
            {"sliding_window": 96},
            [ContextLimit("sliding attention over 96 tokens", 96, 512)],
        ),
        ("gemma2", {"sliding_window": 96, "layer_types": ["full_attention"] * 2}, []),
    ],
)
def test_limits_inside_the_context(
    family: str, changes: dict[str, Any], expected: list[ContextLimit]
) -> None:
    assert find_context_limits(build_tiny_config(family, changes=changes)) == expected


def test_a_model_without_a_config_has_none() -> None:
    assert find_context_limits(None) == []
