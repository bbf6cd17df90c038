"""Models with random weights whose rows are multiples of the size of a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tunesmith_torch.models.earlier_config_keys import write_earlier_keys
from tunesmith_torch.testing.tiny_model import tiny_config, tiny_tokenizer


def save_small_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """Save a folder as a hub would serve it, with other values in its config."""
    config, tokenizer = tiny_config(family), tiny_tokenizer()
    for name, value in {"vocab_size": len(tokenizer), **changes}.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_earlier_keys(folder)
    return folder
