"""Models with random weights and heads of a size that the operators take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith_torch.testing.tiny_model import save_tiny_model


def save_small_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """Save a folder as a hub would serve it, with other values in its config."""
    return save_tiny_model(folder, family, changes={"head_dim": 16, **changes})
