"""Optional fixtures for pytest: ``pytest_plugins = ["tunesmith_torch.testing.fixtures"]``."""

from __future__ import annotations

import re
import tomllib
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


@pytest.fixture
def readme_run_file(
    request: pytest.FixtureRequest,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The run file in the README of the distribution under test, changed to use ``tiny_model``.

    It is written to ``tmp_path``, together with the rows in the README's JSON block. Side effects
    are not measured.
    """
    monkeypatch.setenv("TUNESMITH__RUN__SIDE_EFFECTS", "false")
    text = (request.path.parents[1] / "README.md").read_text(encoding="utf-8")
    (run_file,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (rows,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    tables = tomllib.loads(run_file)
    path = tmp_path / "run.toml"
    path.write_text(run_file.replace(tables["model"]["base"], str(tiny_model)), encoding="utf-8")
    (tmp_path / tables["data"]["train"]).write_text(rows, encoding="utf-8")
    return path
