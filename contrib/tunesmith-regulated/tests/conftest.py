"""Fixtures of every test: a project with a policy and two finished runs, to copy and change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from project import Project, write_keys, write_project

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith.testing.fixtures"]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a private and a public key."""
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def finished(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the run ``first``, which is promoted, and the run ``second``."""
    project = write_project(tmp_path_factory.mktemp("project"), keys)
    project.run("first")
    done = project.call("audit", "promote", project.folder / "runs" / "first", "--reason", "good")
    assert done.exit_code == 0, done.output
    project.run("second")
    return project.folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Project:
    """A copy of the project with its runs."""
    shutil.copytree(finished, tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture
def new_project(keys: Path, tmp_path: Path) -> Project:
    """A project without runs."""
    folder = tmp_path / "project"
    folder.mkdir()
    return write_project(folder, keys)
