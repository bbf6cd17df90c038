"""Plugins of each supported version of the plugin API work as they are."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import tunesmith.hookspecs
from tunesmith import plugins
from tunesmith.errors import warn_deprecated
from tunesmith.execution import execute
from tunesmith.offers import KINDS, Plugin
from tunesmith.storage import RunFolder
from tunesmith_cli.app import app

FROZEN = Path(__file__).parents[1] / "fixtures" / "plugins_api1"
FILES = sorted(FROZEN.glob("*.py"))
RUN = """
[model]
base = "api1:empty"
[data]
use = "api1-lines"
train = "data.api1"
[split]
use = "api1-every"
[technique]
use = "api1-table"
[baselines]
use = ["api1-frequent"]
[encoder]
use = "api1-lengths"
[[evaluators]]
use = "api1-same"
[[reporters]]
use = "api1-list"
[api1-house]
motto = "measure twice"
"""


def test_the_plugins_are_frozen() -> None:
    """A changed file would hide that plugins of others break."""
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in FILES]
    assert (FROZEN / "SHA256SUMS").read_text().splitlines() == sums


def test_they_use_every_hook_and_every_kind_of_offer() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    hooks = [name for name in vars(tunesmith.hookspecs) if name.startswith("tunesmith_")]
    assert hooks
    assert [name for name in hooks if f"def {name}(" not in text] == []
    assert [kind.__name__ for kind in KINDS if f"{kind.__name__}(" not in text] == []


def test_a_run_with_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_PLUGINS", ",".join(path.stem for path in FILES))
    lines = [f"say {n} {n * n}\tSAY {n} {n * n}" for n in range(24)]
    (tmp_path / "data.api1").write_text("\n".join([*lines, "no separator"]))
    (tmp_path / "run.toml").write_text(RUN)
    chosen = [word for path in FILES for word in ("--plugin", str(path))]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        warnings.filterwarnings("ignore", module="torch")
        done = CliRunner().invoke(app, [*chosen, "run", "run.toml", "--out", "out", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    values = {e["model"]: e["value"] for e in report["evaluations"]}
    assert values["tuned"] == 1.0 and values["api1-frequent"] == 0.0
    assert report["verdict"]["sentence"] == "the house rule: measure twice"
    folder = RunFolder.open(tmp_path / "out")
    log = folder.events.read_text()
    assert "api1-data saw 12 and 6 rows" in log
    assert "api1-run saw api1-table, motto measure twice" in log
    assert "api1-run saw the model" in log
    kinds = json.loads((tmp_path / "out" / "api1-events.jsonl").read_text())
    assert kinds.count("StepFinished") == 24 and kinds[-1] == "RunFinished"
    assert execute.load_report(folder).status == "ok"
    greeted = CliRunner().invoke(app, [*chosen, "api1-greet", "Ada"])
    assert greeted.stdout == "hello Ada\n"
    verified = CliRunner().invoke(app, [*chosen, "verify", "out"])
    assert verified.exit_code == 0 and "saw verify of out" in verified.stderr


def test_none_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "")
    chosen = plugins.Selection(
        allowed=frozenset(path.stem for path in FILES), files=tuple(map(str, FILES))
    )
    states = {p.name: p.state for p in plugins.find_plugins(chosen).found}
    assert {states[path.stem] for path in FILES} == {"active"}


def old_name() -> None:
    """Stand in for something that is deprecated."""
    warn_deprecated("old_name", "use new_name", since="1.3")


def test_a_deprecation_names_the_line_of_the_plugin_and_the_release_that_removes_it() -> None:
    text = "old_name is deprecated since tunesmith 1.3 and will be removed in 1.5: use new_name"
    with pytest.warns(DeprecationWarning, match=text) as caught:
        old_name()
    assert caught[0].filename == __file__


def test_an_undeclared_version_is_deprecated() -> None:
    plugin = Plugin(name="x", distribution="tunesmith-x", version="1", module="x")

    def load() -> object:
        raise ImportError("x")

    with pytest.warns(DeprecationWarning, match='"tunesmith-x:x", which declares no version'):
        plugins.load_plugin(plugins.create_manager(), plugin, load)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for declared in (replace(plugin, api="1"), replace(plugin, distribution="file")):
            plugins.load_plugin(plugins.create_manager(), declared, load)


def test_another_version_is_refused_before_the_import() -> None:
    plugin = Plugin(name="x", distribution="tunesmith-x", version="1", module="x", api="2")

    def load() -> object:
        raise AssertionError("it was imported")

    loaded = plugins.load_plugin(plugins.create_manager(), plugin, load)
    assert loaded.state == "broken"
    assert "needs version 2 of the plugin API, but this tunesmith has version 1" in loaded.reason
