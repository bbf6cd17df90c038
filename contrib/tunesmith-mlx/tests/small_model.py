"""Models with random weights, and their config in the form that mlx-lm reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith_torch.models.legacy_config_keys import write_legacy_config_keys
from tunesmith_torch.testing.tiny_model import save_tiny_model


def save_small_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """Save a folder as a hub would serve it, with other values in its config."""
    save_tiny_model(folder, family, changes=changes)
    write_legacy_config_keys(folder)
    return folder
