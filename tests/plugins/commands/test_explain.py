"""``tunesmith explain`` and ``tunesmith --show-completion``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.plugins.commands.conftest import Tunesmith

from tunesmith import errors
from tunesmith.catalog import Catalog
from tunesmith.config.run_file import parse_value
from tunesmith.plugins import Selection, find_plugins
from tunesmith_plugins.commands.plugin_list.explain import (
    error_classes,
    explain_exit_code,
    find_keys,
    list_keys,
)

PROGRAM = "import sys; sys.argv[0] = 'tunesmith'; from tunesmith_cli import main; main()"


def test_a_key_is_explained_with_owner_and_example(tunesmith: Tunesmith) -> None:
    shown = tunesmith("explain", "technique.steps").stdout
    assert "technique.steps = 6 (int, >= 1, <= 100000)\n  Steps to take.\n" in shown
    assert "owner: technique file:fake_plugin:by-heart" in shown
    assert "example: technique.steps = 6" in shown
    assert tunesmith("explain", "steps").stdout.startswith("technique.steps = 6")


def test_forms_of_several_owners_are_listed(tunesmith: Tunesmith) -> None:
    about = json.loads(tunesmith("explain", "technique.learning_rate", "--json").stdout)["keys"]
    owners = [owner for key in about for owner in key["owners"]]
    assert {"technique tunesmith:full", "technique tunesmith:lora"} <= set(owners)
    assert len(owners) == len(set(owners)) and len(about) > 1
    listed = tunesmith("explain", "adapter").stdout
    assert "technique.adapter.rank" in listed and "technique.adapter.dropout" in listed


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("0", "Success"),
        ("3", "DataError: A data file cannot be used"),
        ("75", "stopped at a limit"),
        ("130", "stopped by signal SIGINT"),
        (
            "gateerror",
            "GateError: The run did not meet an exit criterion of its run file. Exit code 6.",
        ),
        ("RunStopped", "A signal or a limit ended the run"),
    ],
)
def test_exit_codes_and_errors_are_explained(tunesmith: Tunesmith, word: str, text: str) -> None:
    assert text in tunesmith("explain", word).stdout


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("technique.lerning_rate", "did you mean technique.learning_rate?"),
        ("PluginErorr", "did you mean PluginError?"),
        ("99", "plugins show NAME"),
        ("\x1b[31mred", "plugins show NAME"),
        ("", "plugins show NAME"),
    ],
)
def test_unknown_words_are_refused_with_a_hint(tunesmith: Tunesmith, word: str, hint: str) -> None:
    done = tunesmith("explain", word)
    assert done.exit_code == 2
    assert hint in done.stderr and "\x1b" not in done.stderr


def test_every_error_has_an_exit_code_that_is_explained() -> None:
    for name, error in error_classes().items():
        # These share the code of their base class.
        special = (errors.ConfigError, errors.RunInUseError, errors.PromptTooLongError)
        if error not in (errors.RunStopped, *special):
            assert str(explain_exit_code(error.exit_code)).startswith(f"{name}: "), name


def test_every_example_is_toml_and_each_key_is_found() -> None:
    keys = list_keys(Catalog(find_plugins(Selection(allowed=frozenset()))))
    assert len(keys) > 200
    for key in keys:
        assert key in find_keys(keys, key.key)
        name, _, value = key.example.partition(" = ")
        assert name == key.key
        if not value.startswith('"') and value not in ("true", "false"):
            assert not isinstance(parse_value(value), str), key.example


# --------------------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(tunesmith: Tunesmith, shell: str) -> None:
    script = tunesmith("--show-completion", shell).stdout
    assert f"_TUNESMITH_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, check=False)
        assert checked.returncode == 0


def test_an_unknown_shell_is_refused(tunesmith: Tunesmith) -> None:
    assert tunesmith("--show-completion", "csh").exit_code == 2


def complete(words: str, tmp_path: Path) -> tuple[list[str], set[str]]:
    """Return the completions of a command line, and the modules that were imported."""
    modules = tmp_path / "modules"
    end = f"import atexit; atexit.register(lambda: open({str(modules)!r}, 'w').write("
    end += "' '.join(sys.modules)))"
    variables = {
        "_TUNESMITH_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "TUNESMITH_PLUGINS": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("; from", f"; {end}; from")],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    found = [line.partition(",")[2] for line in done.stdout.splitlines()]
    return found, set(modules.read_text().split())


def test_commands_are_completed_without_importing_them(tmp_path: Path) -> None:
    found, modules = complete("tunesmith pl", tmp_path)
    assert found == ["plan", "plugins"]
    assert "pydantic" not in modules
    found, modules = complete("tunesmith plugins sh", tmp_path)
    assert found == ["show"]
    assert "pydantic" not in modules


def test_options_are_completed(tmp_path: Path) -> None:
    found, _ = complete("tunesmith run --fo", tmp_path)
    assert found == ["--force"]
