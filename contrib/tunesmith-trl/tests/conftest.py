"""Fixtures of every test: tiny models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported by anybody.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
    del os.environ[name]

import torch  # noqa: E402
from policy_run import CPU, FP32, options, save_model_with_endings  # noqa: E402

from tunesmith_torch.models.adapter_stack import adapt_model  # noqa: E402
from tunesmith_torch.models.open_base import load_model  # noqa: E402

pytest_plugins = ["tunesmith.testing.fixtures", "tunesmith_torch.testing.fixtures"]


@pytest.fixture(scope="session")
def model_with_endings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with unequal token probabilities, whose completions sometimes end."""
    return save_model_with_endings(tmp_path_factory.mktemp("model_with_endings") / "model")


@pytest.fixture(scope="session")
def initial_adapter(model_with_endings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of an earlier run."""
    folder = tmp_path_factory.mktemp("initial")
    base = load_model(model_with_endings, CPU, FP32, packing=False)
    earlier = adapt_model(base, FP32, options().adaptation, initial_model=None, seed=9)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in earlier.named_trainable_parameters:
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
    earlier.model.save_pretrained(folder, save_embedding_layers=False)
    return folder
