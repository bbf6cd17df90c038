"""Data files: names, patterns, parts, and refused paths."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_data.files import find_files
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions


def row(name: str) -> str:
    return f'{{"prompt": "q", "completion": "{name}"}}\n'


def load(train: str | list[str], **options: Any) -> Dataset:
    return JSONL.build(JsonlOptions(train=train, **options)).load()


def answers(dataset: Dataset) -> list[str]:
    return [r.completion for r in dataset.train if isinstance(r, Completion)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text(row(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_of_a_pattern_are_read_in_sorted_order(folder: Path) -> None:
    assert answers(load("*.jsonl")) == ["a", "b", "c"]


def test_files_of_a_list_are_read_in_order_and_only_once(folder: Path) -> None:
    assert answers(load(["c.jsonl", "*.jsonl", "./a.jsonl"])) == ["c", "a", "b"]


def test_sources_below_the_working_directory_are_relative(folder: Path) -> None:
    assert load("a.jsonl").train[0].source == "a.jsonl:1"
    assert load(str(folder / "a.jsonl")).train[0].source == "a.jsonl:1"


def test_sources_elsewhere_are_as_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert load(str(folder / "a.jsonl")).train[0].source == f"{folder}/a.jsonl:1"


def test_a_tilde_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert answers(load("~/a.jsonl")) == ["a"]


@pytest.mark.parametrize("name", ["sp ace.jsonl", "ünïcode ✓.jsonl", "a:1.jsonl", "[x].jsonl"])
def test_unusual_file_names(folder: Path, name: str) -> None:
    (folder / name).write_text(row("x"))
    assert answers(load(name)) == ["x"]


def test_test_files_are_read(folder: Path) -> None:
    dataset = load(["a.jsonl", "b.jsonl"], test="c.jsonl")
    assert answers(dataset) == ["a", "b"]
    assert dataset.test is not None
    assert [r.source for r in dataset.test] == ["c.jsonl:1"]
    assert "test: c.jsonl: 1 rows" in dataset.description
    assert load("a.jsonl").test is None


@pytest.mark.parametrize("part", ["train", "test"])
def test_each_part_has_its_own_share_of_unusable_rows(folder: Path, part: str) -> None:
    (folder / "good.jsonl").write_text(row("a") * 200)
    (folder / "bad.jsonl").write_text(row("a") * 2 + "%%\n")
    names = {"train": "good.jsonl", "test": "good.jsonl", part: "bad.jsonl"}
    with pytest.raises(DataError, match=r"bad\.jsonl: 1 of 3 rows"):
        load(names["train"], test=names["test"])


def test_a_file_in_both_parts_is_refused(folder: Path) -> None:
    (folder / "link.jsonl").symlink_to("a.jsonl")
    with pytest.raises(DataError, match="both train and test"):
        load("a.jsonl", test="link.jsonl")


def test_many_files_are_described_in_one_line(folder: Path) -> None:
    for number in range(50):
        (folder / f"n{number}.jsonl").write_text(row("n"))
    assert load("n*.jsonl").description.endswith("; and 47 more files")


def test_files_of_different_formats(folder: Path) -> None:
    (folder / "text.jsonl").write_text('{"text": "t"}')
    assert len(load(["a.jsonl", "text.jsonl"]).train) == 2


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing.jsonl", "no such file"),
        ("x*.jsonl", "matches no files"),
        (".", "is a folder"),
        ("folder", "is a folder"),
        ("pipe", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        ("loop", "symbolic links"),
        ("n" * 300, "name too long"),
        ("a\0b", "NUL"),
        ("a.jsonl/b", "not a directory"),
    ],
)
def test_paths_that_are_not_data_files_are_refused(folder: Path, name: str, message: str) -> None:
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=message):
        load(name)


def test_patterns_skip_folders_and_symlink_loops(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "d.jsonl").write_text(row("d"))
    (folder / "sub" / "again").symlink_to("..")
    (folder / "folder.jsonl").mkdir()
    assert sorted(answers(load("**/*.jsonl"))) == ["a", "b", "c", "d"]


def test_too_many_files(folder: Path) -> None:
    with pytest.raises(DataError, match="matches more than 2 files"):
        find_files("*.jsonl", max_files=2)
    with pytest.raises(DataError, match="more than 2 files match"):
        find_files(["a.jsonl", "b.jsonl", "c.jsonl"], max_files=2)
    assert len(find_files("*.jsonl", max_files=3)) == 3


def test_gzip_is_recognized_by_its_first_bytes(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(gzip.compress(row("zipped").encode()))
    (folder / "b.jsonl.gz").write_text(row("plain"))
    assert answers(load(["a.jsonl", "b.jsonl.gz"])) == ["zipped", "plain"]


def test_a_path_is_shown_without_detours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in a run file are relative to its folder, often with two dots."""
    (tmp_path / "project").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    (file,) = find_files(str(tmp_path / "project" / ".." / "rows.jsonl"))
    assert file.display_name == "rows.jsonl"


def test_a_missing_file_is_named_with_its_full_path(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_files("rows/missing.jsonl")
    assert f"put the file at {folder / 'rows' / 'missing.jsonl'}" in str(caught.value.hint)
    assert "correct its path in the run file" in str(caught.value.hint)
