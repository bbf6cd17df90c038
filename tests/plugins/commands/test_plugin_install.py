"""Plugins are installed with pip, checked, and uninstalled if they fail; never moved silently."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from environment import Environment
from wheels import COMMAND, write_wheel

from tunesmith.errors import UsageError
from tunesmith_cli.app import app
from tunesmith_plugins.commands.plugin_install.install_command import refuse_unpinned
from tunesmith_plugins.commands.plugin_install.pip import (
    Change,
    describe_publisher,
    find_installed_version,
    find_protected_changes,
    is_pinned,
)
from tunesmith_plugins.commands.plugin_list.directory import read_directory, search_directory

Tunesmith = Callable[..., subprocess.CompletedProcess[str]]


def test_only_some_distributions_are_protected() -> None:
    same, new, other = Change("peft", "1", "1"), Change("torch", None, "3"), Change("x", "1", "2")
    assert find_protected_changes([same, new, other, Change("transformers", "5.0", "5.1")]) == [
        new,
        Change("transformers", "5.0", "5.1"),
    ]


def test_installed_versions_are_known() -> None:
    assert find_installed_version("pluggy") == metadata.version("pluggy")
    assert find_installed_version("a-distribution-that-does-not-exist") is None


def test_the_directory_is_searched_without_network() -> None:
    assert {listed.name for listed in read_directory()} >= {"tunesmith-trl"}
    (found,) = search_directory(["TRL", "rloo"])
    assert (found.name, found.api) == ("tunesmith-trl", "1")
    assert search_directory(["trl", "quokka"]) == []


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("tunesmith-trl", False),
        ("tunesmith-trl>=1", False),
        ("tunesmith-trl==1.*", False),
        ("tunesmith-trl[all] == 1.0", True),
        ("./contrib/tunesmith-trl", True),
        ("tunesmith-trl @ https://example.org/a.whl#sha256=00", True),
    ],
)
def test_a_name_without_a_version_is_not_pinned(requirement: str, expected: bool) -> None:
    assert is_pinned(requirement) is expected


def test_the_publisher_of_an_unpinned_name_is_named() -> None:
    metadata_ = {
        "author": "Ann\x1b[31m",
        "project_url": ["Home, https://a.example"],
    }
    item = {"metadata": metadata_, "download_info": {"url": "https://index.example/t.whl"}}
    publisher = describe_publisher(item)
    assert publisher.startswith("Ann") and "\x1b" not in publisher
    assert publisher.endswith("Home, https://a.example; from https://index.example/t.whl")
    found = Change("tunesmith-trl", None, "9", publisher, is_requested=True)
    needed = Change("other", None, "1")
    with pytest.raises(UsageError, match="no version given; 9 is published by Ann") as refused:
        refuse_unpinned(["Tunesmith_TRL>=1"], [found, needed])
    assert "tunesmith plugins install tunesmith-trl==9" in str(refused.value.hint)
    refuse_unpinned(["tunesmith-trl==9"], [found, needed])


def test_search_recommends_no_name_of_an_index() -> None:
    found = CliRunner().invoke(app, ["plugins", "list", "--available", "trl"])
    assert "tunesmith plugins install ./contrib/NAME" in found.stderr
    assert "not on a package index" in found.stderr


# --------------------------------------------------------------------------- with pip


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment.create(tmp_path_factory.mktemp("install") / "venv")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    return tmp_path / "wheels"


@pytest.fixture
def tunesmith(environment: Environment, tmp_path: Path, wheels: Path) -> Tunesmith:
    """The command line of the environment, with pip that knows the wheels of the test alone."""
    wheels.mkdir()
    variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": "/dev/null"}
    variables["TUNESMITH_CACHE"] = str(tmp_path / "cache")

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return environment.tunesmith(*arguments, cwd=tmp_path, **variables)

    return call


def contents(environment: Environment) -> dict[str, str]:
    """Return the checksum of each installed file of tests' plugins."""
    (site,) = environment.folder.glob("lib/python*/site-packages")
    return {
        str(path.relative_to(site)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in site.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.environment
def test_a_plugin_is_installed_checked_and_listed(
    tunesmith: Tunesmith, wheels: Path, environment: Environment
) -> None:
    before = contents(environment)
    write_wheel(wheels, "tunesmith-greet")
    refused = tunesmith("plugins", "install", "tunesmith-greet")
    assert refused.stdout == "tunesmith-greet not installed -> 1.0\n"
    assert refused.returncode == 2 and contents(environment) == before
    assert "no version given; 1.0 is published by an unnamed author; from file://" in refused.stderr
    assert "tunesmith plugins install tunesmith-greet==1.0" in refused.stderr
    done = tunesmith("plugins", "install", "tunesmith-greet==1.0")
    assert done.returncode == 0, done.stderr
    assert "checking tunesmith-greet:greet 1.0" in done.stderr
    listed = json.loads(tunesmith("plugins", "list", "--json").stdout)["plugins"]
    (greet,) = (plugin for plugin in listed if plugin["name"] == "greet")
    assert (greet["state"], greet["tier"], greet["api"]) == ("active", "conforms", "1")
    assert tunesmith("greet").stdout == "hi from greet 1.0\n"
    assert "already" in tunesmith("plugins", "install", "tunesmith-greet").stderr
    environment.run(["-m", "pip", "uninstall", "--yes", "tunesmith-greet"], cwd=wheels)
    assert contents(environment) == before


@pytest.mark.environment
def test_a_plugin_that_fails_is_uninstalled(
    tunesmith: Tunesmith, wheels: Path, environment: Environment
) -> None:
    before = contents(environment)
    source = COMMAND.format(name="greet", version="1.0")
    plugins = {"greet": "tunesmith_greet"}
    for version, text in (("1.0", source), ("2.0", "import a_library_that_does_not_exist\n")):
        files = {"tunesmith_greet/__init__.py": text}
        write_wheel(wheels, "tunesmith-greet", version, files=files, plugins=plugins)
    assert tunesmith("plugins", "install", "tunesmith-greet==1.0").returncode == 0
    done = tunesmith("plugins", "install", "tunesmith-greet==2.0")
    assert done.returncode == 8
    assert "a_library_that_does_not_exist" in done.stderr
    assert "uninstalled: tunesmith-greet" in done.stderr
    assert "restore the previous version with: pip install tunesmith-greet==1.0" in done.stderr
    assert contents(environment) == before


@pytest.mark.environment
def test_what_is_no_plugin_is_uninstalled(
    tunesmith: Tunesmith, wheels: Path, environment: Environment
) -> None:
    before = contents(environment)
    write_wheel(wheels, "no-plugin", files={"no_plugin.py": "x = 1\n"})
    done = tunesmith("plugins", "install", "no-plugin==1.0")
    assert done.returncode == 8
    assert "no tunesmith plugin found in no-plugin" in done.stderr
    assert contents(environment) == before
    environment.run(
        ["-m", "pip", "install", "no-plugin==1.0"],
        cwd=wheels, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels),
    )  # fmt: skip
    write_wheel(wheels, "no-plugin", "2.0", files={"no_plugin.py": "x = 2\n"})
    done = tunesmith("plugins", "install", "no-plugin==2.0")
    assert done.returncode == 8 and "uninstalled" not in done.stderr
    assert "restore the previous version with: pip install no-plugin==1.0" in done.stderr
    environment.run(["-m", "pip", "uninstall", "--yes", "no-plugin"], cwd=wheels)
    assert contents(environment) == before
    missing = tunesmith("plugins", "install", "a-distribution-that-does-not-exist")
    assert missing.returncode == 4
    assert "No matching distribution found" in missing.stderr


@pytest.mark.environment
def test_what_moves_peft_is_refused_unless_allowed(
    tunesmith: Tunesmith, wheels: Path, environment: Environment
) -> None:
    before = contents(environment)
    write_wheel(wheels, "peft", "99.0", files={"moved.py": "x = 1\n"})
    source = "import a_library_that_does_not_exist\n"
    write_wheel(
        wheels,
        "tunesmith-greet",
        files={"tunesmith_greet/__init__.py": source},
        plugins={"greet": "tunesmith_greet"},
        requires=["peft>=99"],
    )
    done = tunesmith("plugins", "install", "tunesmith-greet")
    assert done.returncode == 4
    now = metadata.version("peft")
    assert f"nothing was installed, because that would change peft {now} -> 99.0" in done.stderr
    assert contents(environment) == before
