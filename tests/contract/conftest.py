"""An environment in which other people's plugins are installed, as pip installs them."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from environment import Environment

THIRD_PARTY = Path(__file__).parents[1] / "fixtures" / "third_party"


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with three plugins of other people: one good, one broken, one a rival."""
    pytest.importorskip("hatchling")
    environment = Environment.create(tmp_path_factory.mktemp("third-party") / "venv")
    copies = tmp_path_factory.mktemp("projects")
    environment.install(*(_copied(path, copies) for path in sorted(THIRD_PARTY.iterdir())))
    return environment


def _copied(project: Path, folder: Path) -> Path:
    """A copy: building must not write into the sources."""
    return Path(copytree(project, folder / project.name, ignore=ignore_patterns("__pycache__")))
