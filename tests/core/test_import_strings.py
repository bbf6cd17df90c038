"""Import strings in offers, and plugins whose hooks are imported when they are called."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from tunesmith.catalog import Catalog
from tunesmith.contracts import Dataset
from tunesmith.errors import PluginError
from tunesmith.fence import fence
from tunesmith.hookspecs import lazy_plugin
from tunesmith.import_strings import ImportString
from tunesmith.offers import CommandOffer, ReporterOffer
from tunesmith.options import Options
from tunesmith.testing.modules import load_modules

PARTS = """
import click
from tunesmith.contracts import Finding
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options


class Reporter:
    def __init__(self, options, folder):
        self.given = options, folder


@click.command
def command():
    pass


def review(train, test=()):
    yield Finding(level="info", where="rows", message=f"{len(train)} and {len(test)}")


def review_plan(plan, train):
    return [Finding(level="info", where="plan", message=plan)]


def misspelled(trian):
    return []


REPORTER = ReporterOffer(name="late", summary="late", config=Options, build="late_parts:Reporter")
"""


@pytest.fixture(autouse=True)
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with parts of a plugin; the package is imported, its module is not."""
    (tmp_path / "late_parts.py").write_text(PARTS, encoding="utf-8")
    (tmp_path / "late_library.py").write_text("import no_such_library\n", encoding="utf-8")
    (tmp_path / "late_package").mkdir()
    (tmp_path / "late_package" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "late_package" / "parts.py").write_text(PARTS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("late_")]:
        monkeypatch.delitem(sys.modules, name)
    import_module("late_package")


def reporter(build: Any) -> ReporterOffer[Any]:
    return ReporterOffer(name="late", summary="late", config=Options, build=build)


def catalog_of(**hooks: Any) -> Catalog:
    return Catalog(load_modules({"late": lazy_plugin("late_package", **hooks)}))


def messages(catalog: Catalog, **parts: Any) -> list[str]:
    found = catalog.review_data(Dataset(train=[]), parts.pop("plan", None), **parts)
    return [finding.message for _, finding in found]


def test_an_offer_imports_what_it_builds_when_it_is_built() -> None:
    offer = replace(reporter("late_parts:Reporter"), summary="later")
    assert "late_parts" not in sys.modules
    built: Any = offer.build("options", "folder")
    assert type(built).__name__ == "Reporter" and built.given == ("options", "folder")
    assert reporter(print).build is print


def test_a_command_is_imported_when_it_is_loaded() -> None:
    offer = CommandOffer(name="late", summary="Late.", load="late_parts:command")
    assert "late_parts" not in sys.modules
    assert isinstance(offer.load(), click.Command)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("late_part:Reporter", 'no module named "late_part"'),
        ("late_parts.inner:Reporter", 'no module named "late_parts.inner"'),
        ("late_parts:Reporters", 'late_parts.py has no "Reporters"'),
        ("late_parts", 'late_parts.py has no ""'),
    ],
)
def test_a_wrong_import_string_is_blamed_on_the_plugin(text: str, reason: str) -> None:
    plugin = next(load_modules({"late": lazy_plugin("late_package", tunesmith_tables=[])}).active())
    with (
        pytest.raises(PluginError, match='"file:late" failed in build') as caught,
        fence(plugin, "build"),
    ):
        reporter(text).build("options", "folder")
    assert f'"{text}"' in caught.value.message and reason in caught.value.message
    assert 'correct the import string, "package.module:name"' in caught.value.message
    assert "offers.py" not in caught.value.message


def test_a_library_that_the_module_lacks_is_named_itself() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_library'"):
        reporter("late_library:Reporter").build("options", "folder")


def test_a_lazy_plugin_imports_an_offer_when_its_hook_is_called() -> None:
    command = CommandOffer(name="late", summary="Late.", load="late_parts:command")
    catalog = catalog_of(tunesmith_reporters=".parts:REPORTER", tunesmith_commands=command)
    assert next(catalog.plugins.active()).hooks == ("tunesmith_commands", "tunesmith_reporters")
    assert [o.offer for o in catalog.offers(CommandOffer)] == [command]
    assert "late_package.parts" not in sys.modules
    assert [o.offer.name for o in catalog.offers(ReporterOffer)] == ["late"]


def test_a_lazy_plugin_can_offer_several() -> None:
    catalog = catalog_of(tunesmith_reporters=[".parts:REPORTER", ".parts:REPORTER"])
    assert len(catalog.offers(ReporterOffer)) == 2


def test_a_lazy_plugin_without_what_it_names_is_broken() -> None:
    catalog = catalog_of(tunesmith_reporters=".parts:NONE")
    assert catalog.offers(ReporterOffer) == []
    (plugin,) = catalog.plugins.broken()
    assert "failed in tunesmith_reporters" in plugin.reason
    assert '"late_package.parts:NONE"' in plugin.reason


def test_a_lazy_review_gets_the_arguments_that_it_names() -> None:
    catalog = catalog_of(tunesmith_review_data=".parts:review")
    assert "late_package.parts" not in sys.modules
    assert messages(catalog, train=[1, 2], validation=[], test=[3]) == ["2 and 1"]
    assert messages(catalog, train=[1, 2]) == ["2 and 0"]


def test_a_lazy_review_that_needs_a_plan_is_skipped_without_one() -> None:
    catalog = catalog_of(tunesmith_review_data=".parts:review_plan")
    assert messages(catalog, train=[]) == []
    assert messages(catalog, train=[], plan="the plan") == ["the plan"]


def test_a_lazy_review_with_a_wrong_argument_is_a_warning() -> None:
    (message,) = messages(catalog_of(tunesmith_review_data=".parts:misspelled"), train=[])
    assert "file:late" in message and "the hook has no argument trian" in message


def test_a_call_with_arguments_calls_the_object_and_one_without_returns_it() -> None:
    text = ImportString("json:dumps")
    assert text([1]) == "[1]"
    assert text()([1]) == "[1]"
    with pytest.raises(ImportError, match="dump_all"):
        ImportString("json:dump_all").load()
    with pytest.raises(ImportError, match="no module named"):
        ImportString("no_such_module:name").load()
