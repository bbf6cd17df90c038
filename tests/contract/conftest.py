"""An environment in which pip has installed third-party plugins."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from environment import Environment

THIRD_PARTY = Path(__file__).parents[1] / "fixtures" / "third_party"


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with third-party plugins: a working one, a broken one, one with its name."""
    pytest.importorskip("hatchling")
    environment = Environment.create(tmp_path_factory.mktemp("third-party") / "venv")
    copies = tmp_path_factory.mktemp("projects")
    environment.install(*(_copy(path, copies) for path in sorted(THIRD_PARTY.iterdir())))
    return environment


def _copy(project: Path, folder: Path) -> Path:
    """Copy a project, so that building does not write into its sources."""
    return Path(copytree(project, folder / project.name, ignore=ignore_patterns("__pycache__")))
