"""Finding plugins: each is loaded in isolation, and all of them are listed."""

from __future__ import annotations

import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from tunesmith import fence, plugins
from tunesmith.errors import DataError, PluginError
from tunesmith.offers import FILE_DISTRIBUTION, Plugin
from tunesmith.plugins import Selection
from tunesmith.testing.modules import load_modules

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


def load_files(*files: str, **selection: object) -> dict[str, Plugin]:
    """Return the plugins of files by name, without the installed ones."""
    chosen = Selection(files=files, **selection)  # type: ignore[arg-type]
    return {
        p.name: p for p in plugins.find_plugins(chosen).found if p.distribution == FILE_DISTRIBUTION
    }


def test_a_file_is_a_plugin(tmp_path: Path) -> None:
    found = load_files(write(tmp_path, "mine", GOOD))["mine"]
    assert (found.state, found.full_name, found.hooks) == (
        "active", "file:mine", ("tunesmith_techniques",),
    )  # fmt: skip
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import a_library_that_does_not_exist", "ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", r"ZeroDivisionError: division by zero (odd.py:1)"),
        ("x = 1", "does not implement any"),
        (GOOD.replace("_techniques", "_technique"), "unknown hook 'tunesmith_technique'"),
        (GOOD.replace("techniques()", "techniques(plan)"), "Argument(s) {'plan'}"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_does_not_affect_others(
    tmp_path: Path, text: str, reason: str
) -> None:
    odd, good = write(tmp_path, "odd", text), write(tmp_path, "good", GOOD)
    for files in ((odd, good), (good, odd)):
        found = load_files(*files)
        assert found["odd"].state == "broken"
        assert reason in found["odd"].reason
        assert found["good"].state == "active"


def test_a_broken_plugin_is_not_registered(tmp_path: Path) -> None:
    text = GOOD + "\n@hookimpl\ndef tunesmith_typo(): ...\n"
    found = plugins.find_plugins(Selection(files=(write(tmp_path, "odd", text),)))
    names = [p.name for p, _ in found.implementations("tunesmith_techniques")]
    assert "odd" not in names
    assert not found.manager.has_plugin("file:odd")


def test_a_missing_file_is_a_broken_plugin(tmp_path: Path) -> None:
    found = load_files(str(tmp_path / "none.py"))
    assert "FileNotFoundError" in found["none"].reason


def test_two_files_with_the_same_name_are_both_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    files = (write(tmp_path, "mine", GOOD), write(tmp_path / "a", "mine", GOOD))
    found = [p for p in plugins.find_plugins(Selection(files=files)).found if p.name == "mine"]
    assert [p.state for p in found] == ["active", "broken"]
    assert "already" in found[1].reason


def test_the_first_of_two_files_with_the_same_name_works(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    files = (write(tmp_path, "mine", GOOD), write(tmp_path / "a", "mine", GOOD))
    found = plugins.find_plugins(Selection(files=files))
    hooks = [p.full_name for p, _ in found.implementations("tunesmith_techniques")]
    assert "file:mine" in hooks


def test_a_file_that_is_named_twice_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = (write(tmp_path, "mine", GOOD), "mine.py", "./x/../mine.py")
    found = plugins.find_plugins(Selection(files=files)).found
    assert [p.state for p in found if p.name == "mine"] == ["active"]


def test_a_plugin_that_raises_no_exception_but_a_base_exception_is_broken(tmp_path: Path) -> None:
    text = "from asyncio import CancelledError\nraise CancelledError('stop')"
    found = load_files(write(tmp_path, "odd", text))["odd"]
    assert (found.state, found.reason) == ("broken", "CancelledError: stop (odd.py:2)")


def test_plugins_are_disabled_by_name_or_full_name(tmp_path: Path) -> None:
    file = write(tmp_path, "mine", "raise SystemExit('it was imported')")
    for name in ("mine", "file:mine"):
        found = load_files(file, disabled=frozenset({name}))["mine"]
        assert (found.state, found.reason) == (
            "blocked",
            "disabled by --no-plugin or [plugins] disable",
        )


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
def test_the_environment_variable_selects_third_parties(
    allowed: str | None, active: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if allowed is None:
        monkeypatch.delenv("TUNESMITH_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("TUNESMITH_PLUGINS", allowed)
    selection = Selection.from_environment()
    installed = [
        entry("tunesmith", "lora"),
        entry("tunesmith-csv", "csv"),
        entry("tunesmith-shout", "shout"),
    ]
    assert {p.name for p in installed if not selection.block_reason(p)} == active


def test_plugins_are_sorted_built_in_first_then_by_distribution_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, plugins_of_it in (("tunesmith_b", "x"), ("tunesmith", "za"), ("Tunesmith.a", "y")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        lines = "".join(f"{plugin} = m.{plugin}\n" for plugin in plugins_of_it)
        (folder / "entry_points.txt").write_text(f"[tunesmith]\n{lines}[tunesmith.api]\n1=1\n")
        (folder / "METADATA").write_text(f"Name: {name.replace('_', '-')}\nVersion: 1.0\n\nx: y")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = plugins.find_plugins(Selection()).found
    assert [p.full_name for p in found] == [
        "tunesmith:a", "tunesmith:z", "Tunesmith.a:y", "tunesmith-b:x",
    ]  # fmt: skip


def test_a_list_of_entry_points_that_cannot_be_read_is_named_and_the_others_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its distribution need not have plugins; pydantic and torch read all lists, too."""
    for name, content in (("stranger", b"\xff\xfe"), ("odd", b"[tunesmith]\nodd = m\n")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(metadata, "entry_points", metadata.entry_points)  # restored afterwards
    for _ in range(2):
        found = {plugin.full_name: plugin for plugin, _ in plugins.find_installed()}
        assert found["odd:odd"].state == "active" and "tunesmith:lora" in found
        broken = found["stranger:stranger"]
        assert (broken.state, broken.version) == ("broken", "1.0")
        path = tmp_path / "stranger-1.0.dist-info" / "entry_points.txt"
        assert broken.reason.startswith(f"{path} cannot be read")
    assert metadata.entry_points(group="tunesmith", name="odd")


def test_what_a_plugin_prints_at_import_goes_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = write(tmp_path, "odd", GOOD + "print('hello')\n")
    assert load_files(odd)["odd"].state == "active"
    assert capsys.readouterr() == ("", "hello\n")


def test_hooks_of_third_parties_are_called_before_built_ins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bench import offering

    modules = {"built-in": offering("techniques"), "third-party": offering("techniques")}
    found = load_modules(modules)
    called = [p.name for p, _ in found.implementations("tunesmith_techniques")]
    assert called == ["third-party", "built-in"]


def test_requirements_are_checked_by_metadata_only() -> None:
    version = metadata.version("pluggy")
    assert (
        plugins.missing_requirements(
            [f"pluggy=={version}", "pluggy", "pluggy; python_version < '3'"]
        )
        == []
    )
    assert plugins.missing_requirements(["x-unknown; python_version < '3'"]) == []
    assert plugins.missing_requirements(["pluggy>=999"]) == [
        f"pluggy>=999 is needed, but version {version} is installed"
    ]
    assert plugins.missing_requirements(["tunesmith-unknown>=1"]) == [
        "tunesmith-unknown>=1 is not installed"
    ]
    assert plugins.missing_requirements(["a b"]) == ["a b is not a valid requirement"]


def test_an_error_names_plugin_version_and_line() -> None:
    plugin = Plugin(name="odd", distribution="tunesmith-odd", version="3.1", module="m")
    message = r'"tunesmith-odd:odd" 3\.1 failed: KeyError: .x. \(test_plugins'
    with pytest.raises(PluginError, match=message), fence.attribute_errors_to(plugin):
        raise KeyError("x")
    with pytest.raises(DataError), fence.attribute_errors_to(plugin):
        raise DataError("f:1", "odd")
    with pytest.raises(KeyboardInterrupt), fence.attribute_errors_to(plugin):
        raise KeyboardInterrupt


def test_a_plugin_that_is_slow_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    slow = entry("tunesmith-odd", "odd\x1b[31m")
    for seconds in (0.0, 0.3):
        with fence.note_if_slow(slow, "tunesmith_review_data", 0.05):
            time.sleep(seconds)
        printed = capsys.readouterr().err
        assert ("still busy in tunesmith_review_data after 0.05 s" in printed) is bool(seconds)
    assert r"'tunesmith-odd:odd\x1b[31m'" in printed


def test_tracing_prints_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunesmith.catalog import Catalog
    from tunesmith.offers import TechniqueOffer

    monkeypatch.setenv("TUNESMITH_TRACE", "1")
    found = plugins.find_plugins(Selection(files=(write(tmp_path, "mine", GOOD),)))
    Catalog(found).offers(TechniqueOffer)
    assert "trace: file:mine tunesmith_techniques" in capsys.readouterr().err


def test_finding_plugins_changes_no_import_path(tmp_path: Path) -> None:
    before = list(sys.path)
    load_files(write(tmp_path, "mine", GOOD))
    assert sys.path == before
