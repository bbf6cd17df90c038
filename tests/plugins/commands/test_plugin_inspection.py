"""New distributions are inspected in another process, once, with a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributions import Site

from tunesmith.plugins import Selection, find_installed, inspection_files
from tunesmith.testing.kit import Result
from tunesmith.testing.remember import kit_file, remember_results
from tunesmith_cli.app import app
from tunesmith_plugins.commands.plugin_list import inspect_installed as module
from tunesmith_plugins.commands.plugin_list.inspect_distribution import (
    Inspection,
    inspect_elsewhere,
    read_inspection,
    write_inspection,
)
from tunesmith_plugins.commands.plugin_list.tiers import find_tier

pytestmark = pytest.mark.processes

PROGRAM = "import sys; sys.argv[0] = 'tunesmith'; from tunesmith_cli import main; main()"
ONLY = Selection(allowed=frozenset({"tunesmith-greet", "tunesmith-wave"}))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = {*sys.modules}
    yield Site(tmp_path / "site")
    for name in {*sys.modules} - before:
        if name.startswith("tunesmith_gre"):
            del sys.modules[name]


@dataclass
class Listing:
    """Lists all plugins, and keeps the texts that it reports."""

    reported: list[str] = field(default_factory=list)

    def __call__(self, selection: Selection = ONLY, refresh: bool = False) -> dict[str, Inspection]:
        inspected = module.inspect_installed(
            selection, refresh=refresh, report=self.reported.append
        )
        return {found.plugin.name: found for found in inspected.inspections}


def inspect(name: str, seconds: float = 20) -> Inspection:
    pairs = [pair for pair in find_installed() if pair[0].name == name]
    (found,) = inspect_elsewhere(pairs, seconds)
    return found


def test_a_new_distribution_is_imported_once_elsewhere(site: Site) -> None:
    site.add("greet")
    listing = Listing()
    first = listing()
    assert first["greet"].plugin.hooks == ("tunesmith_commands",)
    assert [(o.kind, o.name) for o in first["greet"].offers] == [("command", "greet")]
    assert "tunesmith_greet" not in sys.modules
    assert listing() == first
    assert (site.imported(), listing.reported) == (["greet"], ["inspecting tunesmith-greet 1.0"])
    site.add("greet", version="1.1")
    assert listing()["greet"].plugin.version == "1.1"
    listing(refresh=True)
    assert site.imported() == ["greet"] * 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os._exit(3)", "importing the plugin ended the process with exit code 3"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("raise KeyboardInterrupt", "importing the plugin ended the process with exit code 1"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "importing the plugin ended the process with exit code -9",
        ),
        ("import a_library_that_does_not_exist", "ModuleNotFoundError"),
        ("print('\\x1b[2J' * 100)\n1 / 0", "ZeroDivisionError"),
        ("input()", "EOFError"),
        ("x = 1", "does not implement any"),
        (
            "from tunesmith.hookspecs import hookimpl\n"
            "@hookimpl\n"
            "def tunesmith_commands(): return 5\n",
            "type int from tunesmith_commands",
        ),
    ],
)
def test_a_plugin_that_fails_is_broken_and_nothing_else(
    site: Site, source: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    site.add("greet", source)
    found = inspect("greet")
    assert found.plugin.state == "broken"
    assert reason in found.plugin.reason
    assert capfd.readouterr() == ("", "")


def test_a_plugin_that_hangs_is_ended_with_what_it_started(site: Site) -> None:
    pid = site.folder / "pid"
    site.add(
        "greet",
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n",
    )
    started = time.monotonic()
    found = inspect("greet", 1.0)
    assert time.monotonic() - started < 10
    assert found.plugin.reason == "importing the plugin took longer than 1 seconds"
    assert not is_running(int(pid.read_text()))


def is_running(pid: int) -> bool:
    """Return True if a process runs, within a second after it was killed."""
    for _ in range(20):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_a_plugin_that_failed_quickly_is_inspected_again(site: Site) -> None:
    """What it lacks may have been installed since. One that took long is not."""
    site.add("greet", "import tunesmith_wave")
    listing = Listing()
    assert listing()["greet"].plugin.state == "broken"
    assert listing()["greet"].plugin.state == "broken"
    assert site.imported() == ["greet", "greet"]
    (pair,) = (pair for pair in find_installed() if pair[0].name == "greet")
    path = inspection_files([pair])["tunesmith-greet"]
    slow = json.loads(path.read_text())
    slow["greet"]["seconds"] = 30.0
    path.write_text(json.dumps(slow))
    assert listing()["greet"].plugin.seconds == 30.0
    assert site.imported() == ["greet", "greet"]


def test_a_mistyped_command_imports_no_plugin_that_was_inspected(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "tunesmith-greet,tunesmith-wave")
    site.add("greet")
    Listing()()
    done = CliRunner().invoke(app, ["gret"])
    assert (done.exit_code, site.imported()) == (2, ["greet"])
    assert "did you mean greet?" in done.stderr
    # A word that resembles no known command may be one of a file of the cache that is wrong.
    done = CliRunner().invoke(app, ["xyzzy"])
    assert (done.exit_code, site.imported()) == (2, ["greet"] * 2)


def test_a_command_of_a_new_plugin_is_found_although_it_resembles_another(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "tunesmith-greet,tunesmith-gret")
    site.add("greet")
    Listing()()
    site.add("gret")
    done = CliRunner().invoke(app, ["gret"])
    assert (done.exit_code, done.stdout) == (0, "hi from gret\n"), done.output


def test_blocked_plugins_are_not_imported(site: Site) -> None:
    site.add("greet")
    found = Listing()(Selection(allowed=frozenset()))["greet"]
    assert (found.plugin.state, found.plugin.reason) == ("blocked", "not in TUNESMITH_PLUGINS")
    assert site.imported() == []
    assert Listing()()["greet"].plugin.state == "active"


@pytest.mark.parametrize(
    "change",
    [
        {"state": "active\x1b"},
        {"offers": [["command", "greet"]]},
        {"offers": 5},
        {"seconds": "long"},
        {"hooks": None},
        {"commands": [1]},
        {"reason": ...},
    ],
)
def test_a_damaged_description_is_replaced(site: Site, change: dict[str, object]) -> None:
    site.add("greet")
    good = Listing()()["greet"]
    (pair,) = (pair for pair in find_installed() if pair[0].name == "greet")
    path = inspection_files([pair])["tunesmith-greet"]
    about = json.loads(path.read_text())
    ((key, value),) = change.items()
    if value is ...:
        del about["greet"][key]
    else:
        about["greet"][key] = value
    path.write_text(json.dumps(about))
    again = Listing()()["greet"]
    assert (again.offers, again.plugin.state) == (good.offers, "active")
    assert read_inspection(path, [pair[0]]) == [again]


def test_a_cache_that_cannot_be_written_is_no_error(site: Site, tmp_path: Path) -> None:
    site.add("greet")
    (tmp_path / "cache").write_text("no folder")
    assert Listing()()["greet"].plugin.state == "active"
    write_inspection(tmp_path / "cache" / "plugins" / "x.json", [])


def test_two_processes_at_once_leave_a_whole_file(site: Site, tmp_path: Path) -> None:
    site.add("greet")
    variables = {**os.environ, "PYTHONPATH": str(site.folder), "TUNESMITH_PLUGINS": "greet"}
    command = [sys.executable, "-c", PROGRAM, "plugins", "list", "--json"]
    running = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in running:
        out, _ = process.communicate()
        plugins = {plugin["name"]: plugin for plugin in json.loads(out)["plugins"]}
        assert plugins["greet"]["offers"][0]["name"] == "greet"
    names = [path.name for path in (tmp_path / "cache" / "plugins").iterdir()]
    assert len(names) == 2 and all(name.startswith("tunesmith") for name in names)
    assert Listing()()["greet"].plugin.state == "active"
    assert set(site.imported()) == {"greet"}


# --------------------------------------------------------------------------- tiers


GOOD = {"metric": "loss", "value": 1.0, "low": 0.9, "high": 1.2}


@pytest.mark.parametrize(
    ("kit", "results", "tier"),
    [
        (None, None, "loads"),
        ({"passed": 9, "failed": 1}, None, "loads"),
        ({"passed": 0, "failed": 0}, None, "loads"),
        ({"passed": "9", "failed": 0}, None, "loads"),
        ([], None, "loads"),
        ({"passed": 9, "failed": 0}, None, "conforms"),
        ({"passed": 9, "failed": 0}, {"command": "make bench", "results": []}, "conforms"),
        ({"passed": 9, "failed": 0}, {"command": " ", "results": [GOOD]}, "conforms"),
        ({"passed": 9, "failed": 0}, {"command": "x", "results": [{**GOOD, "low": 2}]}, "conforms"),
        ({"passed": 9, "failed": 0}, {"command": "x", "results": [5]}, "conforms"),
        ({"passed": 9, "failed": 0}, {"command": "x", "results": [GOOD]}, "measured"),
        ({"passed": 9, "failed": 1}, {"command": "x", "results": [GOOD]}, "loads"),
    ],
)
def test_the_tier_follows_from_what_is_known(
    site: Site, kit: object, results: object, tier: str
) -> None:
    module = site.add("greet")
    (pair,) = (pair for pair in find_installed() if pair[0].name == "greet")
    path = inspection_files([pair])["tunesmith-greet"]
    path.parent.mkdir(parents=True)
    if kit is not None:
        kit_file(path).write_text(json.dumps({"greet": kit}))
    if results is not None:
        module.with_name("tunesmith-results.json").write_text(json.dumps(results))
    assert find_tier(pair[0], path) == tier
    assert find_tier(replace(pair[0], state="broken"), path) == ""


def test_results_of_the_kit_are_void_after_a_change(site: Site) -> None:
    site.add("greet")
    (pair,) = (pair for pair in find_installed() if pair[0].name == "greet")
    passed = Result(check="one", offer="", state="passed")
    remember_results(pair[0], [passed])
    files = inspection_files([pair])
    assert find_tier(pair[0], files["tunesmith-greet"]) == "conforms"
    remember_results(pair[0], [passed, replace(passed, state="failed")])
    assert find_tier(pair[0], files["tunesmith-greet"]) == "loads"
    remember_results(pair[0], [passed])
    site.add("greet", "x = 1")
    (pair,) = (pair for pair in find_installed() if pair[0].name == "greet")
    assert find_tier(pair[0], inspection_files([pair])["tunesmith-greet"]) == "loads"
