"""Entry points are those that importlib.metadata finds, read without importing it."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from tunesmith import import_strings
from tunesmith.plugins import find_installed

CONTENT = """
# a comment
[tunesmith]
one = a_module
two=a_module:X.y [extra]

[other]
a.b = c = d
"""


def install(site: Path, folder: str, content: str = CONTENT) -> Path:
    """Write the metadata folder of a distribution."""
    path = site / folder
    path.mkdir(parents=True)
    (path / "entry_points.txt").write_text(content, encoding="utf-8")
    return path


def test_they_are_those_of_importlib_metadata_in_this_environment() -> None:
    found: set[tuple[str, str, str]] = set()
    for folder in import_strings.find_metadata_folders():
        for group, named in import_strings.read_entry_points(folder).items():
            found |= {(group, *point) for point in named.items()}
    points = [point for d in metadata.distributions() for point in d.entry_points]
    assert found == {(point.group, point.name, point.value) for point in points}


def test_names_and_versions_are_those_of_importlib_metadata() -> None:
    found = map(import_strings.read_name_and_version, import_strings.find_metadata_folders())
    assert {*found} == {(d.name, d.version) for d in metadata.distributions()}


def test_a_file_is_read_as_importlib_metadata_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install(tmp_path, "some_thing-1.0.dist-info")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "absent")])
    assert [*import_strings.find_metadata_folders()] == [str(folder)]
    points = import_strings.read_entry_points(str(folder))
    assert points["other"] == {"a.b": "c = d"}
    read = metadata.PathDistribution(folder).entry_points
    assert {(p.group, p.name): p.value for p in read} == {
        (group, name): value for group, named in points.items() for name, value in named.items()
    }


@pytest.mark.parametrize("second", ["Some.Thing-2.0.dist-info", "some_thing.egg-info"])
def test_the_first_of_two_installations_counts(
    second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = install(tmp_path / "a", "some_thing-1.0.dist-info")
    install(tmp_path / "b", second)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b")])
    assert [*import_strings.find_metadata_folders()] == [str(first)]


@pytest.mark.parametrize("content", ["[tunesmith]\nno value\n", "[tunesmith]\n\udcff = m\n"])
def test_a_damaged_file_is_an_error(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd-1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError):
        import_strings.read_entry_points(str(folder))


def test_a_name_may_lead_to_an_attribute_of_an_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named_module.py").write_text("class X:\n    y = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_strings.load_entry_point("named_module:X.y [extra]") == 5
    assert import_strings.load_entry_point("named_module") is sys.modules.pop("named_module")


def test_an_installed_plugin_has_its_metadata_folder() -> None:
    folders = {folder for plugin, folder in find_installed() if plugin.is_builtin}
    assert [import_strings.read_name_and_version(f)[0] for f in folders] == ["tunesmith"]
