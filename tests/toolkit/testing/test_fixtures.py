"""The fixture with a tiny Llama, for tests of plugins."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM

from tunesmith_torch.testing.fixtures import tiny_model
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

__all__ = ["tiny_model"]


def test_the_folder_is_that_of_a_model(tiny_model: Path) -> None:
    assert AutoModelForCausalLM.from_pretrained(tiny_model).config.model_type == "llama"
    assert tiny_model == get_tiny_model_folder()
