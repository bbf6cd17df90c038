"""A plugin from the template passes its own tests, whatever its name."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from click.testing import CliRunner
from environment import Environment
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import UsageError
from tunesmith.plugins import API_GROUP, API_VERSION
from tunesmith.testing.checks import NotApplicable
from tunesmith.testing.kit import collect_checks
from tunesmith.testing.modules import load_modules
from tunesmith_cli.app import app
from tunesmith_plugins.commands.plugin_template.kinds import KINDS
from tunesmith_plugins.commands.plugin_template.write_plugin import (
    MAX_NAME_LENGTH,
    RESERVED,
    write_file,
    write_plugin,
)

AWKWARD = (
    "f1", "class", "none", "import", "list", "type", "print", "test", "tests", "tunesmith", "numpy",
    "core", "offers", "evaluators", "testing", "json", "re", "pathlib", "click", "pydantic",
    "offer", "options", "lines", "first-word", "first-word-options", "loss-file", "hashed",
    "word-votes", "top-layers", "train", "nn", "command", "review", "record", "path", "build",
    "3d", "42", "0", "a-1-b", "x" * MAX_NAME_LENGTH, "-".join("a" * 32),
)  # fmt: skip
"""Keywords, built-ins, modules, words of the templates, digits, and the longest."""
legal_names = st.one_of(
    st.sampled_from(AWKWARD),
    st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,5}", fullmatch=True),
).filter(lambda name: name not in RESERVED)
SLOW = {"import_is_light", "leaves_libraries_untouched", "leaves_environment_untouched"}
"""Checks that take a process, or look at all modules; a test below runs them."""


@contextmanager
def importing(folder: Path) -> Iterator[ModuleType]:
    """Import the package below ``src``, and forget it afterwards."""
    source = folder / "src"
    (package,) = (path.name for path in source.iterdir())
    before = set(sys.modules)
    sys.path.insert(0, str(source))
    try:
        yield import_module(package)
    finally:
        sys.path.remove(str(source))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == package:
                del sys.modules[name]


def keep_promises(module: ModuleType) -> int:
    """Run the quick checks of a plugin; return the number of those that were applicable."""
    kept = 0
    for check in collect_checks(module):
        if check.check.name not in SLOW:
            try:
                check()
                kept += 1
            except NotApplicable:
                continue
    return kept


@given(name=legal_names, kind=st.sampled_from([*KINDS]))
@settings(max_examples=40)
def test_any_legal_name_gives_a_working_plugin(name: str, kind: str) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        files = write_plugin(folder, name, kind)
        for path in files:
            if path.suffix == ".py":
                compile(path.read_text(encoding="utf-8"), str(path), "exec")
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        assert project["project"]["name"] == f"tunesmith-{name}"
        with importing(folder) as module:
            assert project["project"]["entry-points"] == {
                "tunesmith": {name: f"{module.__name__}:PLUGIN"},
                API_GROUP: {str(API_VERSION): module.__name__},
            }
            assert keep_promises(module.PLUGIN) >= (0 if kind == "check" else 2)


@given(name=legal_names, kind=st.sampled_from([*KINDS]))
@settings(max_examples=25)
def test_any_legal_name_gives_a_working_file(name: str, kind: str) -> None:
    with TemporaryDirectory() as temporary:
        path = write_file(Path(temporary) / f"{name}.py", name, kind)
        spec = spec_from_file_location(f"tunesmith_file_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[module.__name__] = module
        try:
            spec.loader.exec_module(module)
            (plugin,) = load_modules({name: module}).found
            assert (plugin.state, plugin.hooks) == ("active", (KINDS[kind].hook,)), plugin.reason
            assert keep_promises(module) >= (0 if kind == "check" else 2)
        finally:
            del sys.modules[module.__name__]


def run_own_tests(*folders: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run(
        [*command, "-rs", "--import-mode=importlib", *(str(f / "tests") for f in folders)],
        cwd=folders[0],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(folder / "src") for folder in folders),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.processes
def test_new_plugins_pass_their_own_tests(tmp_path: Path) -> None:
    """One of each kind but the technique, in one process, with names that are in the code too."""
    names = (
        "f1",
        "class",
        "test",
        "3d",
        "json",
        "list",
        "offer",
        "transformers",
        "vectors",
        "yield",
    )
    kinds = [kind for kind in KINDS if kind != "technique"]
    folders = [tmp_path / kind for kind in kinds]
    for folder, name, kind in zip(folders, names, kinds, strict=True):
        write_plugin(folder, name, kind)
    assert_all_pass(run_own_tests(*folders))


@pytest.mark.environment
def test_a_new_technique_is_installed_and_passes_its_own_tests(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    project = tmp_path / "project"
    write_plugin(project, "accelerate", "technique")
    environment = Environment.create(tmp_path / "venv")
    environment.install(project)
    shown = environment.tunesmith("plugins", "show", "accelerate", cwd=tmp_path)
    listed = "accelerate (technique): low-rank adapters in the last layers"
    assert listed in shown.stdout, shown.stderr
    tests = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(project / "tests")]
    assert_all_pass(environment.run(tests, cwd=tmp_path))


def assert_all_pass(result: subprocess.CompletedProcess[str]) -> None:
    """Assert that all tests pass, and that none is skipped without a reason in the plugin."""
    assert result.returncode == 0, result.stdout + result.stderr
    expected = ("does not find models", "test", "no estimates", "memory savings", "well-known")
    lines = [line for line in result.stdout.splitlines() if line.startswith("SKIPPED")]
    assert lines
    assert [line for line in lines if not any(text in line for text in expected)] == []


def test_what_cannot_be_a_plugin_is_refused(tmp_path: Path) -> None:
    write_plugin(tmp_path / "x", "mine", "evaluator")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_plugin(tmp_path / "x", "mine", "evaluator")
    (tmp_path / "file").touch()
    for write in (write_plugin, write_file):
        with pytest.raises(UsageError, match="exists"):
            write(tmp_path / "file", "mine", "evaluator")
        with pytest.raises(UsageError, match="no such kind") as caught:
            write(tmp_path / "y", "mine", "evaluatr")
        assert caught.value.hint == "did you mean evaluator?"
        for name in ("Mine", "a_b", "", "a/b", "../x", "-a", "a--b", "a-", "é", "a\n"):
            with pytest.raises(UsageError, match="names must consist"):
                write(tmp_path / "z", name, "evaluator")
        with pytest.raises(UsageError, match="at most 64 characters"):
            write(tmp_path / "z", "a" * 65, "evaluator")
        with pytest.raises(UsageError, match="which is a key of"):
            write(tmp_path / "z", "budget", "baseline")


def test_the_description_has_the_right_article(tmp_path: Path) -> None:
    for kind in KINDS:
        article = {"evaluator": "An", "exporter": "An", "encoder": "An"}.get(kind, "A")
        write_plugin(tmp_path / kind, "mine", kind)
        for file in ("README.md", "pyproject.toml"):
            text = (tmp_path / kind / file).read_text(encoding="utf-8")
            assert f"{article} {kind} for tunesmith" in text


def test_names_of_tunesmith_itself_are_reserved(tmp_path: Path) -> None:
    """Those of its packages, and of the distributions in ``contrib``."""
    root = Path(__file__).parents[3]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packages = [Path(p).name for p in settings["hatch"]["build"]["targets"]["wheel"]["packages"]]
    contrib = [path.parent.name for path in root.glob("contrib/*/pyproject.toml")]
    own = {name.replace("_", "-") for name in [*packages, *contrib]} - {"tunesmith"}
    assert {f"tunesmith-{name}" for name in RESERVED} == own
    for name in RESERVED:
        with pytest.raises(UsageError, match="is reserved") as caught:
            write_plugin(tmp_path / name, name, "loader")
        assert f"acme-{name}" in str(caught.value.hint)
        assert not (tmp_path / name).exists()
    write_file(tmp_path / "data.py", "data", "loader")  # a single file has no distribution


def test_the_command_writes_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plugins", "new", "mine", "--kind", "reporter"])
    assert done.exit_code == 0, done.output
    written = done.stdout.splitlines()
    assert "tunesmith-mine/src/tunesmith_mine/offer.py" in written
    assert all(Path(path).is_file() for path in written)
    assert "cd tunesmith-mine && pip install -e '.[dev]' && pytest" in done.stderr
    again = CliRunner().invoke(app, ["plugins", "new", "mine", "--kind", "reporter"])
    assert again.exit_code == 2 and "not an empty folder" in again.stderr
    elsewhere = ["plugins", "new", "mine", "--kind", "reporter", "--out", "other", "-q"]
    done = CliRunner().invoke(app, elsewhere)
    assert done.exit_code == 0 and done.stderr == ""
    assert (tmp_path / "other" / "pyproject.toml").is_file()


def test_the_command_writes_a_file_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plugins", "new", "count-it", "--kind", "command", "--file"])
    assert (done.exit_code, done.stdout) == (0, "count-it.py\n"), done.output
    assert "tunesmith --plugin count-it.py plugins check count-it" in done.stderr
    done = CliRunner().invoke(app, ["--plugin", "count-it.py", "count-it", "count-it.py"])
    assert done.exit_code == 0 and "words" in done.stdout, done.output


def test_the_name_of_a_command_must_be_free() -> None:
    for name in ("run", "data", "plugins"):
        done = CliRunner().invoke(app, ["plugins", "new", name, "--kind", "command", "--file"])
        assert done.exit_code == 2
        assert "this command already exists" in done.stderr
