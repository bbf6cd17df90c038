"""Models with random weights, with heads as wide as vLLM's attention on a CPU needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith_torch.models.legacy_config_keys import write_legacy_config_keys
from tunesmith_torch.testing.tiny_model import save_tiny_model

WIDE_HEADS = {
    "hidden_size": 64,
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def save_small_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """Save a folder as a hub would serve it, with other values in its config."""
    save_tiny_model(folder, family, changes={**WIDE_HEADS, **changes})
    write_legacy_config_keys(folder)
    return folder
