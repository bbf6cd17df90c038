"""The wheel has every file of the source roots, so that templates and examples are installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = ("core", "plugins")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this distribution, built without network from a copy of the sources."""
    pytest.importorskip("hatchling")
    project = tmp_path_factory.mktemp("project")
    for root in ROOTS:
        copytree(ROOT / root, project / root, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, project)
    folder = tmp_path_factory.mktemp("wheel")
    arguments = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir"]
    command = [sys.executable, "-m", "pip", "wheel", *arguments, str(folder), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


def test_the_wheel_has_all_files_of_the_source_roots(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT / root).as_posix()
        for root in ROOTS
        for path in (ROOT / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected
    assert any(name.endswith(".template") for name in packed)


def test_a_plugin_is_created_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Its template is read from the installed package data."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    program = (
        "import tunesmith, tunesmith_plugins, sys\n"
        "print(tunesmith.__file__, tunesmith_plugins.__file__, file=sys.stderr)\n"
        "sys.argv[0] = 'tunesmith'\n"
        "from tunesmith_cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "plugins", "new", "mine", "--kind", "evaluator"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "TUNESMITH_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(str(tmp_path / "installed")) == 2
    assert (tmp_path / "tunesmith-mine" / "src" / "tunesmith_mine" / "offer.py").is_file()
