"""Finding plugins: each in isolation, every one accounted for."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from tunesmith import plugins
from tunesmith.errors import DataError, PluginError
from tunesmith.offered import Plugin
from tunesmith.plugins import Selection

GOOD = """
from tunesmith.hookspecs import hookimpl

@hookimpl
def tunesmith_techniques():
    return []
"""


def write(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def find(*files: str, **selection: object) -> dict[str, Plugin]:
    """What became of the files, with everything that is installed left out."""
    chosen = Selection(files=files, **selection)  # type: ignore[arg-type]
    return {p.name: p for p in plugins.find(chosen).found if p.distribution == plugins.FILES}


def test_a_file_is_a_plugin(tmp_path: Path) -> None:
    found = find(write(tmp_path, "mine", GOOD))["mine"]
    assert (found.state, found.full_name, found.hooks) == (
        "active", "file:mine", ("tunesmith_techniques",),
    )  # fmt: skip
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import a_library_that_nobody_has", "ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", r"ZeroDivisionError: division by zero (odd.py:1)"),
        ("x = 1", "implements no hook"),
        (GOOD.replace("_techniques", "_technique"), "unknown hook 'tunesmith_technique'"),
        (GOOD.replace("techniques()", "techniques(plan)"), "Argument(s) {'plan'}"),
        (
            "from tunesmith.hookspecs import hookimpl\n"
            "@hookimpl\n"
            "def tunesmith_find_model(reference, revision):\n"
            "    yield None\n",
            "is a generator",
        ),
    ],
)
def test_what_does_not_work_is_listed_with_its_reason_and_harms_nobody(
    tmp_path: Path, text: str, reason: str
) -> None:
    odd, good = write(tmp_path, "odd", text), write(tmp_path, "good", GOOD)
    for files in ((odd, good), (good, odd)):
        found = find(*files)
        assert found["odd"].state == "broken"
        assert reason in found["odd"].reason
        assert found["good"].state == "active"


def test_a_broken_plugin_takes_no_part(tmp_path: Path) -> None:
    text = GOOD + "\n@hookimpl\ndef tunesmith_typo(): ...\n"
    found = plugins.find(Selection(files=(write(tmp_path, "odd", text),)))
    names = [p.name for p, _ in found.implementations("tunesmith_techniques")]
    assert "odd" not in names
    assert not found.manager.has_plugin("file:odd")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    found = find(str(tmp_path / "none.py"))
    assert "FileNotFoundError" in found["none"].reason


def test_two_files_of_one_name_are_both_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    files = (write(tmp_path, "mine", GOOD), write(tmp_path / "a", "mine", GOOD))
    found = [p for p in plugins.find(Selection(files=files)).found if p.name == "mine"]
    assert [p.state for p in found] == ["active", "broken"]
    assert "already" in found[1].reason


def test_disabling_by_name_and_by_full_name(tmp_path: Path) -> None:
    file = write(tmp_path, "mine", "raise SystemExit('it was imported')")
    for name in ("mine", "file:mine"):
        found = find(file, disabled=frozenset({name}))["mine"]
        assert (found.state, found.reason) == (
            "blocked",
            "disabled by --no-plugin or [plugins] disable",
        )


def test_a_module_by_name(tmp_path: Path) -> None:
    files = (write(tmp_path, "mine", GOOD), write(tmp_path, "odd", "1 / 0"))
    found = plugins.find(Selection(files=files, disabled=frozenset({"hub"})))
    for name in ("mine", "file:mine"):
        plugin, module = found.module(name)
        assert plugin.full_name == "file:mine" and module.tunesmith_techniques() == []
    for name, message in (
        ("odd", '"file:odd"  is broken: ZeroDivisionError'),
        ("hub", "is blocked: disabled"),
        ("file", "more than one plugin is named"),
        ("nobody", 'no plugin is named "nobody"'),
    ):
        with pytest.raises(PluginError, match=message):
            found.module(name)


def entry(distribution: str, name: str) -> Plugin:
    return Plugin(name=name, distribution=distribution, version="1", module="m")


@pytest.mark.parametrize(
    ("allowed", "active"),
    [
        (None, {"lora", "csv", "shout"}),
        ("", {"lora"}),
        ("csv", {"lora", "csv"}),
        (" tunesmith-shout , ", {"lora", "shout"}),
        ("tunesmith-shout:shout,csv", {"lora", "csv", "shout"}),
    ],
)
def test_the_environment_allows(
    allowed: str | None, active: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if allowed is None:
        monkeypatch.delenv("TUNESMITH_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("TUNESMITH_PLUGINS", allowed)
    selection = Selection.from_environment()
    all_ = [
        entry("tunesmith", "lora"),
        entry("tunesmith-csv", "csv"),
        entry("tunesmith-shout", "shout"),
    ]
    assert {p.name for p in all_ if not selection.blocks(p)} == active


def test_built_in_first_then_by_distribution_then_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        version = "1"

        def __init__(self, name: str) -> None:
            self.name = name

    class Entry:
        def __init__(self, home: str, name: str) -> None:
            self.dist, self.name, self.value = Distribution(home), name, f"m.{name}"

        def load(self) -> object:
            raise ImportError(self.name)

    shuffled = [("tunesmith-b", "x"), ("tunesmith", "z"), ("tunesmith-a", "y"), ("tunesmith", "a"),
                ("tunesmith", "z")]  # fmt: skip
    monkeypatch.setattr(metadata, "entry_points", lambda group: [Entry(*e) for e in shuffled])
    found = plugins.find(Selection()).found
    assert [p.full_name for p in found] == [
        "tunesmith:a", "tunesmith:z", "tunesmith-a:y", "tunesmith-b:x",
    ]  # fmt: skip


def test_third_parties_are_asked_before_built_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import offering

    modules = {"built-in": offering("techniques"), "theirs": offering("techniques")}
    found = plugins.only(modules)
    asked = [p.name for p, _ in found.implementations("tunesmith_techniques")]
    assert asked == ["theirs", "built-in"]


def test_requirements_are_checked_from_metadata_alone() -> None:
    ours = metadata.version("pluggy")
    assert plugins.missing([f"pluggy=={ours}", "pluggy", "pluggy; python_version < '3'"]) == []
    assert plugins.missing(["x-nobody; python_version < '3'"]) == []
    assert plugins.missing(["pluggy>=999"]) == [
        f"pluggy>=999 is needed, but version {ours} is installed"
    ]
    assert plugins.missing(["tunesmith-nobody>=1"]) == ["tunesmith-nobody>=1 is not installed"]


def test_blame_names_plugin_version_and_line() -> None:
    plugin = Plugin(name="odd", distribution="tunesmith-odd", version="3.1", module="m")
    said = r'"tunesmith-odd:odd" 3\.1 failed: KeyError: .x. \(test_plugins'
    with pytest.raises(PluginError, match=said), plugins.blame(plugin):
        raise KeyError("x")
    with pytest.raises(DataError), plugins.blame(plugin):
        raise DataError("f:1", "odd")
    with pytest.raises(KeyboardInterrupt), plugins.blame(plugin):
        raise KeyboardInterrupt


def test_tracing_prints_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunesmith.catalog import Catalog
    from tunesmith.offers import TechniqueOffer

    monkeypatch.setenv("TUNESMITH_TRACE", "1")
    found = plugins.find(Selection(files=(write(tmp_path, "mine", GOOD),)))
    Catalog(found).offers(TechniqueOffer)
    assert "trace: file:mine tunesmith_techniques" in capsys.readouterr().err


def test_finding_plugins_changes_no_import_path(tmp_path: Path) -> None:
    before = list(sys.path)
    find(write(tmp_path, "mine", GOOD))
    assert sys.path == before
