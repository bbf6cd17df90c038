"""Third-party plugins installed with pip: found, listed, used and isolated.

The core does not know them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from environment import Environment

pytestmark = pytest.mark.environment

RUN = """
[model]
base = "base"

[data]
use = "jsonl"
train = "rows.jsonl"

[technique]
use = "echo"
epochs = 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A base model of tunesmith-echo, data and a run file."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "echo.json").write_text("{}", encoding="utf-8")
    cities = ("Paris", "Rome", "Madrid")
    rows = [
        json.dumps({"prompt": f"{n % 3} {n * 7} question {n}", "completion": cities[n % 3]})
        for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    return tmp_path


def list_plugins(
    third_party: Environment, cwd: Path, *arguments: str, **variables: str
) -> dict[str, Any]:
    done = third_party.tunesmith("plugins", "list", "--json", *arguments, cwd=cwd, **variables)
    assert done.returncode == 0, done.stderr
    return {plugin["full_name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}


def test_plugins_are_listed_with_their_state(third_party: Environment, tmp_path: Path) -> None:
    found = list_plugins(third_party, tmp_path)
    echo = found["tunesmith-echo:echo"]
    assert (echo["state"], echo["version"]) == ("active", "1.2.0")
    assert [offer["name"] for offer in echo["offers"]] == ["echo", "brevity"]
    broken = found["tunesmith-broken:broken"]
    assert broken["state"] == "broken"
    assert "a_library_that_does_not_exist" in broken["reason"]
    assert found["tunesmith:lora"]["state"] == "active"


def test_plugins_are_listed_as_text(third_party: Environment, tmp_path: Path) -> None:
    done = third_party.tunesmith("plugins", "list", cwd=tmp_path)
    assert "memorizes answers in a table" in done.stdout
    assert "broken: tunesmith-broken:broken 1.2.0: ModuleNotFoundError" in done.stdout


def test_a_run_uses_a_third_party_technique(third_party: Environment, project: Path) -> None:
    done = third_party.tunesmith("run", "run.toml", "--out", "out", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["plan"]["technique"]["use"] == "echo"
    assert report["verdict"]["comparisons"]["zero-shot"]["outcome"] == "better"
    assert {p["distribution"] for p in report["plugins"]} >= {"tunesmith", "tunesmith-echo"}
    assert (project / "out" / "model" / "echo.json").is_file()


def test_options_of_third_parties_are_checked(third_party: Environment, project: Path) -> None:
    sets = ["--set", "technique.epocs=3", "--set", "technique.batch_size=0"]
    done = third_party.tunesmith("run", "run.toml", *sets, cwd=project)
    assert done.returncode == 2
    assert 'technique.epocs: unknown key (did you mean "epochs"?)' in done.stderr
    assert "technique.batch_size: should be greater than or equal to 1, got 0" in done.stderr
    assert not (project / "runs").exists()


def test_an_ambiguous_name_is_refused_with_both_full_names(
    third_party: Environment, project: Path
) -> None:
    (project / "run.toml").write_text(RUN + '[[evaluators]]\nuse = "brevity"\n', encoding="utf-8")
    done = third_party.tunesmith("plan", "run.toml", cwd=project)
    assert done.returncode == 2
    assert '"tunesmith-echo:brevity" or "tunesmith-same-name:brevity"' in done.stderr
    (project / "run.toml").write_text(
        RUN + '[[evaluators]]\nuse = "tunesmith-echo:brevity"\n', encoding="utf-8"
    )
    done = third_party.tunesmith("run", "run.toml", "--out", "out", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluations"][0]["metric"] == "words-off"


def test_a_blocked_plugin_does_not_make_a_name_ambiguous(
    third_party: Environment, project: Path
) -> None:
    (project / "run.toml").write_text(RUN + '[[evaluators]]\nuse = "brevity"\n', encoding="utf-8")
    for arguments, variables in (
        (["--no-plugin", "same-name"], {}),
        (["--no-plugin", "tunesmith-same-name:same-name"], {}),
        ([], {"TUNESMITH_PLUGINS": "tunesmith-echo"}),
        ([], {"TUNESMITH_PLUGINS": "echo"}),
    ):
        done = third_party.tunesmith("plan", "run.toml", *arguments, cwd=project, **variables)
        assert done.returncode == 0, done.stderr


def test_the_run_file_disables_plugins(third_party: Environment, project: Path) -> None:
    (project / "run.toml").write_text(RUN + '[plugins]\ndisable = ["echo"]\n', encoding="utf-8")
    done = third_party.tunesmith("plan", "run.toml", cwd=project)
    assert done.returncode == 2
    assert 'no technique "echo" is installed' in done.stderr


def test_the_run_file_requires_plugins(third_party: Environment, project: Path) -> None:
    text = RUN + '[plugins]\nrequire = ["tunesmith-echo>=1.2"]\n'
    (project / "run.toml").write_text(text, encoding="utf-8")
    assert third_party.tunesmith("plan", "run.toml", cwd=project).returncode == 0
    (project / "run.toml").write_text(text.replace("1.2", "2.0"), encoding="utf-8")
    done = third_party.tunesmith("plan", "run.toml", cwd=project)
    assert done.returncode == 2
    assert "tunesmith-echo>=2.0 is needed, but version 1.2.0 is installed" in done.stderr


def test_an_empty_variable_blocks_all_third_parties(
    third_party: Environment, tmp_path: Path
) -> None:
    found = list_plugins(third_party, tmp_path, TUNESMITH_PLUGINS="")
    states = {plugin["state"] for name, plugin in found.items() if name.startswith("tunesmith-")}
    assert states == {"blocked"}
    assert found["tunesmith:lora"]["state"] == "active"


def test_a_broken_plugin_that_is_needed_is_named(third_party: Environment, project: Path) -> None:
    done = third_party.tunesmith("plan", "run.toml", "--set", "technique.use=broken", cwd=project)
    assert done.returncode == 8
    assert '"tunesmith-broken:broken" 1.2.0 is broken' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_single_file_is_a_plugin(third_party: Environment, project: Path) -> None:
    (project / "note.py").write_text(
        "from tunesmith.contracts import Finding\n"
        "from tunesmith.hookspecs import hookimpl\n"
        "@hookimpl\n"
        "def tunesmith_review_plan(plan):\n"
        "    return [Finding(level='error', where='technique', message='not on a Tuesday')]\n",
        encoding="utf-8",
    )
    done = third_party.tunesmith("check", "run.toml", "--plugin", "note.py", cwd=project)
    assert done.returncode == 2
    assert "technique: not on a Tuesday" in done.stderr


def test_a_new_plugin_from_the_command_line(third_party: Environment, tmp_path: Path) -> None:
    done = third_party.tunesmith("plugins", "new", "first-word", "--kind=evaluator", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tunesmith-first-word" / "src" / "tunesmith_first_word").is_dir()
    offer = tmp_path / "tunesmith-first-word" / "pyproject.toml"
    assert '"first-word" = "tunesmith_first_word:PLUGIN"' in offer.read_text(encoding="utf-8")


def test_the_conformance_kit_runs_from_the_command_line(
    third_party: Environment, project: Path
) -> None:
    done = third_party.tunesmith(
        "plugins", "check", "tunesmith-echo:echo", "--model", "base", cwd=project
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "resumes_where_it_stopped" in done.stdout
    done = third_party.tunesmith("plugins", "check", "broken", cwd=project)
    assert done.returncode == 8
