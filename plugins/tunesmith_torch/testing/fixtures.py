"""Optional fixtures for pytest: ``pytest_plugins = ["tunesmith_torch.testing.fixtures"]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tunesmith_torch.export.export_run import TrainedModel

pytest_plugins = ["tunesmith.testing.fixtures"]


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of a tiny Llama with random weights, with the files of a hub model."""
    from tunesmith_torch.testing.tiny_model import get_tiny_model_folder  # torch takes seconds

    return get_tiny_model_folder()


@pytest.fixture(scope="session")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """The ``tiny_model`` with an adapter that has learned an answer, for exporter tests."""
    from tunesmith_torch.testing.exports import train_tiny

    return train_tiny("lora", tiny_model, tmp_path_factory.mktemp("lora"))
