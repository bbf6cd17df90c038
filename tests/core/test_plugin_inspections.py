"""What distributions offer is remembered until they change; help imports no plugin."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from distributions import COMMAND, Site

from tunesmith.plugins import (
    cache_folder,
    find_installed,
    find_plugins,
    inspection_files,
    read_commands,
)
from tunesmith_cli.app import app


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder for distributions, on ``sys.path``, and an empty cache."""
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Site(tmp_path / "site")
    for name in [n for n in sys.modules if n in ("tunesmith_greet", "tunesmith_wave")]:
        del sys.modules[name]


def tunesmith(*args: str) -> Result:
    return CliRunner().invoke(app, args, prog_name="tunesmith")


def remember(distribution: str, content: object) -> Path:
    """Write the file for a distribution."""
    path = inspection_files(find_installed())[distribution]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_folder_is_named_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("TUNESMITH_CACHE", "~/own")
    assert cache_folder() == Path.home() / "own"
    monkeypatch.delenv("TUNESMITH_CACHE")
    assert cache_folder() == Path("/caches/tunesmith")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library/Caches/tunesmith"


def test_help_imports_no_plugin_that_was_not_inspected(site: Site) -> None:
    site.add("greet")
    site.add("wave")
    shown = tunesmith("--help").stdout
    assert "2 plugins not inspected yet: see `tunesmith plugins list`" in shown
    assert "Greets" not in shown and "run" in shown
    assert site.imported() == []


def test_help_shows_remembered_commands_and_a_command_imports_its_plugin_alone(site: Site) -> None:
    site.add("greet")
    site.add("wave")
    remember(
        "tunesmith-greet",
        {"greet": {"commands": [["greet", "Greets \x1b[31mwarmly.", "More", 100]]}},
    )
    remember("tunesmith-wave", {"wave": {"commands": [["wave", "Waves.", "More", 100]]}})
    shown = tunesmith("--help").stdout
    assert "Waves." in shown and "not inspected" not in shown
    assert "\x1b" not in shown
    assert site.imported() == []
    assert tunesmith("greet").stdout == "hi from greet\n"
    assert site.imported() == ["greet"]


def test_a_command_of_a_new_plugin_is_found_by_importing_it(site: Site) -> None:
    site.add("greet")
    assert tunesmith("greet").stdout == "hi from greet\n"
    assert "no such command" in tunesmith("grete").stderr


@pytest.mark.parametrize("commands", [[], [["grumble", "Grumbles.", "More", 100]]])
def test_what_is_remembered_wrongly_does_not_hide_a_command(site: Site, commands: object) -> None:
    site.add("greet")
    remember("tunesmith-greet", {"greet": {"commands": commands}})
    assert tunesmith("greet").stdout == "hi from greet\n"


def test_a_command_that_exists_no_longer_is_refused_with_a_hint(site: Site) -> None:
    site.add("greet")
    remember("tunesmith-greet", {"greet": {"commands": [["grumble", "Grumbles.", "More", 100]]}})
    done = tunesmith("grumble")
    assert done.exit_code == 8
    assert 'it no longer offers the command "grumble"' in done.stderr
    assert "plugins list --refresh" in done.stderr


def test_a_remembered_command_of_a_broken_plugin_is_refused_with_its_reason(site: Site) -> None:
    site.add("greet", "1 / 0")
    remember("tunesmith-greet", {"greet": {"commands": [["greet", "Greets.", "More", 100]]}})
    done = tunesmith("greet")
    assert done.exit_code == 8
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0\xff",
        "[]",
        "5",
        '{"greet": 5}',
        '{"greet": {"commands": 5}}',
        '{"greet": {"commands": [["a", "b"]]}}',
        "[" * 100_000,
        "{" * 9,
    ],
)
def test_a_damaged_file_counts_as_none(site: Site, content: str) -> None:
    site.add("greet")
    remember("tunesmith-greet", content)
    assert read_commands([p for p in find_installed() if p[0].name == "greet"]) == {}
    assert "1 plugin not inspected yet" in tunesmith("--help").stdout


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "large"])
def test_what_is_no_file_counts_as_none(site: Site, kind: str) -> None:
    site.add("greet")
    path = remember("tunesmith-greet", "{}")
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)  # reading it would wait for ever
    elif kind == "loop":
        path.symlink_to(path)
    else:
        about = {"commands": [["greet", "Greets.", "More", 100]]}
        path.write_text(json.dumps({"greet": about, "more": "x" * 4_000_000}))
    assert "1 plugin not inspected yet" in tunesmith("--help").stdout


def test_names_that_are_no_names_of_commands_are_not_shown(site: Site) -> None:
    site.add("greet")
    remember(
        "tunesmith-greet", {"greet": {"commands": [["gr\x1b[31meet", "Greets.", "More", 100]]}}
    )
    shown = tunesmith("--help")
    assert shown.exit_code == 0
    assert "eet" not in shown.stdout.partition("Start:")[2].replace("greet", "")


@pytest.mark.parametrize("editable", [True, False])
def test_a_change_of_the_distribution_makes_it_new(site: Site, editable: bool) -> None:
    def path() -> Path:
        return inspection_files(find_installed())["tunesmith-greet"]

    module = site.add("greet", editable=editable)
    before = path()
    assert path() == before
    site.add("greet", editable=editable, version="1.1")
    newer = path()
    site.add("greet", COMMAND.format(name="other"), editable=editable, version="1.1")
    changed = path()
    assert len({before, newer, changed}) == 3
    module.write_text("x = 1")
    assert (path() != changed) == editable  # RECORD says nothing about later changes


def test_other_plugins_keep_their_file(site: Site) -> None:
    site.add("greet")
    before = inspection_files(find_installed())
    site.add("wave")
    after = inspection_files(find_installed())
    assert {name: after[name] for name in before} == before


def test_a_run_imports_its_plugins_whatever_is_remembered(site: Site) -> None:
    site.add("greet")
    remember("tunesmith-greet", {"greet": {"commands": []}})
    found = {plugin.name: plugin for plugin in find_plugins().found}
    assert found["greet"].hooks == ("tunesmith_commands",)
    assert site.imported() == ["greet"]


def test_a_plugin_of_another_api_version_is_not_imported(site: Site) -> None:
    site.add("greet", api="2")
    found = {plugin.name: plugin for plugin in find_plugins().found}["greet"]
    assert found.state == "broken"
    assert found.reason.startswith("it needs version 2 of the plugin API, but this tunesmith has")
    assert site.imported() == []
