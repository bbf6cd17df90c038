"""``tunesmith plugins check`` prints the results of the conformance kit."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunesmith.errors import PluginError, UsageError
from tunesmith.plugins import Selection, find_plugins
from tunesmith_cli.app import app
from tunesmith_plugins.commands.plugin_check import ORDER, find_module, parse_samples

BROKEN = """
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options

class Undescribed(Options):
    path: str = "x"

class Silent:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def report(self, event):
        raise ValueError("never")

@hookimpl
def tunesmith_reporters():
    return [ReporterOffer(name="silent", summary="reports nothing", config=Undescribed,
                          build=lambda options, folder: Silent())]
"""


def test_a_plugin_that_keeps_the_contract_passes() -> None:
    done = CliRunner().invoke(app, ["plugins", "check", "exact-match"])
    assert done.exit_code == 0, done.output
    assert done.stdout.split()[:3] == ["check", "offer", "what"]
    assert " 0 failed" in done.stderr
    done = CliRunner().invoke(app, ["plugins", "check", "exact-match", "--json"])
    found = json.loads(done.stdout)
    assert (found["schema"], found["plugin"]) == (
        "tunesmith.check-plugin/2",
        "tunesmith:exact-match",
    )
    assert {result["state"] for result in found["results"]} >= {"passed"}


@pytest.mark.parametrize("is_last", [False, True])
def test_a_plugin_that_breaks_the_contract_fails(tmp_path: Path, is_last: bool) -> None:
    """The file of the plugin is named before or after the command."""
    file = tmp_path / "quiet.py"
    file.write_text(BROKEN)
    option, command = ["--plugin", str(file)], ["plugins", "check", "quiet"]
    done = CliRunner().invoke(app, [*command, *option] if is_last else [*option, *command])
    assert done.exit_code == 8, done.output
    assert 'plugin "file:quiet"' in done.stderr and "fails: " in done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("failed")]


def test_a_failed_check_names_the_line_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quiet.py").write_text(BROKEN)
    arguments = ["--plugin", "quiet.py", "plugins", "check", "quiet"]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    results = {result["check"]: result for result in found["results"]}
    assert results["every_option_has_help"]["where"] == "quiet.py:6"
    assert results["accepts_every_event"]["where"] == "quiet.py:17"
    states = Counter(result["state"] for result in found["results"])
    assert {state: found[state.replace(" ", "_")] for state in ORDER if states[state]} == states
    table = CliRunner().invoke(app, arguments).stdout
    assert "look at quiet.py:17" in table
    assert table.splitlines()[-1].startswith("failed")


def test_the_plugin_of_the_readme_passes(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n([^`]*hookimpl[^`]*)```", readme)
    (tmp_path / "brief.py").write_text(code, encoding="utf-8")
    arguments = ["--plugin", str(tmp_path / "brief.py"), "plugins", "check", "brief"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["jsonl", "table", "text"])
def test_a_loader_reads_the_file_of_the_kit(name: str) -> None:
    done = CliRunner().invoke(app, ["plugins", "check", name, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    missing = [r["check"] for r in found["results"] if r["state"] == "not run"]
    assert (missing, found["not_run"], found["failed"]) == (["loads_its_examples"], 1, 0)
    assert "1 not run" in done.stderr


def test_a_check_without_its_sample_is_not_run_and_says_what_to_add() -> None:
    done = CliRunner().invoke(app, ["plugins", "check", "sql"])
    assert done.exit_code == 0
    assert re.search(r"not run +same_order_twice .*`--set sql.train=VALUE`", done.stdout)
    assert re.search(r"\d+ passed, 3 skipped, \d+ not run, 0 failed", done.stderr)


SPECIAL = """
import csv
from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import Options
from pydantic import Field

class Logs(Options):
    train: str = Field(description="A file of log lines.")

class Loader:
    def __init__(self, options):
        self.options = options

    def load(self):
        raise DataError("sample.csv:1", "no column `level`")

@hookimpl
def tunesmith_data_loaders():
    return [DataLoaderOffer(name="logs", summary="log lines", config=Logs, build=Loader,
                            recognizes=lambda name: name.endswith(".csv"))]
"""


def test_a_loader_that_needs_other_columns_does_not_fail(tmp_path: Path) -> None:
    (tmp_path / "logs.py").write_text(SPECIAL)
    arguments = ["--plugin", str(tmp_path / "logs.py"), "plugins", "check", "logs"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "no column `level`): pass --set logs.train=FILE on" in done.stdout


@pytest.mark.processes
def test_a_technique_is_trained_without_options() -> None:
    done = CliRunner().invoke(app, ["plugins", "check", "lora", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["not_run"], found["failed"]) == (0, 0) and found["passed"] > 30


def test_a_plugin_that_is_not_installed_is_named() -> None:
    done = CliRunner().invoke(app, ["plugins", "check", "nowhere"])
    assert done.exit_code == 8
    assert 'no plugin is named "nowhere"' in done.stderr


def test_options_of_components_are_parsed() -> None:
    sets = ["jsonl.train=rows.jsonl", "lora.adapter.rank=4"]
    assert parse_samples(sets) == {
        "jsonl": {"train": "rows.jsonl"},
        "lora": {"adapter": {"rank": 4}},
    }
    for text in ("jsonl.train", "train=x"):
        with pytest.raises(UsageError, match=r"--set .*: expected COMPONENT"):
            parse_samples([text])


def test_a_module_is_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    (tmp_path / "odd.py").write_text("1 / 0")
    files = (str(tmp_path / "mine.py"), str(tmp_path / "odd.py"))
    found = find_plugins(Selection(files=files, disabled=frozenset({"huggingface"})))
    for name in ("mine", "file:mine"):
        plugin, module = find_module(found, name)
        assert plugin.full_name == "file:mine" and module.Silent
    for name, message in (
        ("odd", '"file:odd"  is broken: ZeroDivisionError'),
        ("huggingface", "is blocked: disabled"),
        ("file", "more than one plugin is named"),
        ("unknown", 'no plugin is named "unknown"'),
    ):
        with pytest.raises(PluginError, match=message):
            find_module(found, name)
