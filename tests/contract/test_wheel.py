"""The wheel has every file of the source roots, so that templates and examples are installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from wheels import ROOT, build_wheels, copy_sources, find_faults

ROOTS = ("core", "plugins")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this distribution, built without network from a copy of the sources."""
    pytest.importorskip("hatchling")
    project = copy_sources(tmp_path_factory.mktemp("project"))
    (built,) = build_wheels([project], tmp_path_factory.mktemp("wheel"))
    return built


def test_the_wheel_has_all_files_of_the_source_roots(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT / root).as_posix()
        for root in ROOTS
        for path in (ROOT / root).glob("*/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected
    assert any(name.endswith(".template") for name in packed)


def test_the_wheel_can_be_released(wheel: Path) -> None:
    assert list(find_faults(wheel)) == []


def test_faults_of_a_wheel_are_found(wheel: Path, tmp_path: Path) -> None:
    """The check above is not blind."""
    damaged = tmp_path / wheel.name.replace("-0.", "-9.", 1)
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            if name not in ("tunesmith_data/py.typed", "tunesmith_cli/__init__.py"):
                text = source.read(name)
                text = text.replace(b"License-Expression", b"X") if "METADATA" in name else text
                target.writestr(name.replace("licenses/LICENSE", "LICENSE"), text)
        target.writestr("tunesmith/tests/test_x.py", "")
    version = wheel.name.split("-")[1]
    assert set(find_faults(damaged)) == {
        "tunesmith_data has no py.typed",
        "tunesmith/tests/test_x.py must not be in a wheel",
        "it has no LICENSE",
        "its metadata has no License-Expression",
        f"its version is {version}",
        "it lacks the entry point tunesmith = tunesmith_cli:main",
    }


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
