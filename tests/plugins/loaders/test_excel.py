"""Workbooks of Excel: values as text, one sheet, and nothing silently missing."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from loading import load_both_ways

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_plugins.loaders.table.offer import TABLE, TableOptions


def write(path: Path, *rows: list[object], **more: list[list[object]]) -> Path:
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    for row in rows:
        sheet.append(row)
    for title, others in more.items():
        other = workbook.create_sheet(title)
        for row in others:
            other.append(row)
    workbook.save(path)
    return path


def load(path: Path, **options: Any) -> Dataset:
    return load_both_ways(TABLE.build(TableOptions(train=str(path), **options)))


def test_values_become_the_text_that_a_csv_file_would_have(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["text", "Text"],
        ["int", 7],
        ["whole", 7.0],
        ["float", 0.25],
        ["yes", True],
        ["day", datetime.datetime(2026, 3, 1)],
        ["moment", datetime.datetime(2026, 3, 1, 12, 30)],
        ["zeros", "007"],
    ]
    path = write(tmp_path / "t.xlsx", ["prompt", "completion"], *rows)
    found = {r.prompt: r.completion for r in load(path).train if isinstance(r, Completion)}
    assert found == {
        "text": "Text",
        "int": "7",
        "whole": "7",
        "float": "0.25",
        "yes": "TRUE",
        "day": "2026-03-01",
        "moment": "2026-03-01 12:30:00",
        "zeros": "007",
    }


def test_rows_are_named_as_excel_numbers_them_and_blank_ones_are_no_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.xlsx", [], ["prompt", "completion"], ["p", "c"], [None, ""], ["q", "d"]
    )
    assert [record.source.rpartition(":")[2] for record in load(path).train] == ["3", "5"]


def test_a_row_that_cannot_be_used_is_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.xlsx",
        ["prompt", "completion"],
        ["p", "c"],
        ["p", None],
        ["p", "#REF!"],
    )
    dataset = load(path, max_skipped=0.9)
    assert [row.cause for row in dataset.skipped] == [
        "`completion` is null",
        "a formula results in an error",
    ]


def test_one_of_several_sheets_must_be_chosen(tmp_path: Path) -> None:
    header: list[object] = ["prompt", "completion"]
    path = write(tmp_path / "t.xlsx", header, ["p", "c"], More=[header, ["q", "d"]], Empty=[])
    with pytest.raises(DataError, match=r"several sheets with data: Sheet, More$"):
        load(path)
    (record,) = load(path, sheet="More").train
    assert isinstance(record, Completion) and record.prompt == "q"
    with pytest.raises(DataError, match='no sheet "more"'):
        load(path, sheet="more")
    assert len(load(write(tmp_path / "u.xlsx", header, ["p", "c"], Empty=[])).train) == 1


def test_columns_and_header_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two columns are named `prompt`"):
        load(write(tmp_path / "t.xlsx", ["prompt", "prompt"], ["a", "b"]))
    with pytest.raises(DataError, match="all sheets are empty"):
        load(write(tmp_path / "t.xlsx"))


def test_what_is_no_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    with pytest.raises(DataError, match="Excel 97 to 2003"):
        load(path)
    write(path, ["prompt", "completion"], ["p", "c" * 1000])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="zip archive"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "x")
    with pytest.raises(DataError, match="zip archive"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<broken")
    with pytest.raises(DataError, match="cannot be read"):
        load(path)


def test_a_workbook_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.xlsx", ["prompt", "completion"], *[["p", "c" * 100]] * 50)
    with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
        load(path, max_unpacked_bytes=1000)
