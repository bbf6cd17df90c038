"""Parquet and Arrow files: the rows unchanged, and no file that uses up the memory."""

from __future__ import annotations

import datetime
import decimal
import importlib.util
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from loading import load_both_ways

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError, EnvironmentProblem
from tunesmith.install import install_extra
from tunesmith.records import Chat, Completion
from tunesmith_plugins.loaders.table.offer import TABLE, TableOptions

COLUMNS: dict[str, list[Any]] = {"prompt": ["p", "q é"], "completion": ["c", "d"]}


def load(path: Path, **options: Any) -> Dataset:
    return load_both_ways(TABLE.build(TableOptions(train=str(path), **options)))


def write(path: Path, columns: dict[str, list[Any]], **options: Any) -> Path:
    table = pyarrow.table(columns)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, **options)
    else:
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as w:
            w.write_table(table)
    return path


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "rows"])
def test_rows_are_read(tmp_path: Path, name: str) -> None:
    dataset = load(write(tmp_path / name, COLUMNS))
    assert [(r.source[-2:], getattr(r, "prompt", "")) for r in dataset.train] == [
        (":1", "p"),
        (":2", "q é"),
    ]
    assert "2 rows of prompts and completions" in dataset.description


def test_more_rows_than_are_read_at_a_time(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(100)]
    for suffix in ("parquet", "arrow"):
        dataset = load(write(tmp_path / f"rows.{suffix}", {"text": texts}))
        assert [getattr(r, "text", "") for r in dataset.train] == texts


def test_nested_columns_are_conversations(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (record,) = load(write(tmp_path / "rows.parquet", {"messages": [messages]})).train
    assert isinstance(record, Chat)
    assert [m.content for m in record.messages] == ["q", "a"]


def test_dates_and_decimal_numbers_are_text(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.parquet",
        {
            "prompt": [datetime.date(2024, 5, 1)],
            "completion": [decimal.Decimal("1.50")],
            "at": [datetime.datetime(2024, 5, 1, 12)],
        },
    )
    (record,) = load(path, group="at").train
    assert isinstance(record, Completion)
    assert (record.prompt, record.completion) == ("2024-05-01", "1.50")
    assert record.group == "2024-05-01 12:00:00"


def test_values_that_are_not_text_are_skipped(tmp_path: Path) -> None:
    columns = {"prompt": [b"x", b"y"], "completion": ["c", "d"]}
    with pytest.raises(DataError, match="`prompt` is an object, not text"):
        load(write(tmp_path / "rows.parquet", columns))
    columns = {"prompt": ["p", None, "q"], "completion": ["c", "d", "e"]}
    dataset = load(write(tmp_path / "rows.parquet", columns), max_skipped=0.5)
    assert [(x.where[-2:], x.cause) for x in dataset.skipped] == [(":2", "`prompt` is null")]
    assert dataset.skipped[0].row == '{"prompt": null, "completion": "d"}'


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "magic", "zeros"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, damage: str) -> None:
    path = write(tmp_path / f"rows.{suffix}", {"text": [f"text {n}" * 9 for n in range(500)]})
    data = path.read_bytes()
    half = len(data) // 2
    damaged = {
        "cut": data[:half],
        "garbage": data[:half] + bytes(range(200)) + data[half + 200 :],
        "magic": data[:8],
        "zeros": data[:8] + bytes(len(data) - 8),
    }
    path.write_bytes(damaged[damage])
    try:
        dataset = load(path)
    except DataError as error:
        assert path.name in error.where
    else:  # damage in the bytes of a text, without a checksum
        assert (suffix, damage) == ("arrow", "garbage") and len(dataset.train) == 500


def test_a_parquet_bomb_is_refused(tmp_path: Path) -> None:
    count = 2_000
    path = write(tmp_path / "bomb.parquet", {"text": ["x" * 100_000] * count}, compression="zstd")
    assert path.stat().st_size < 100_000 < 200_000_000
    with pytest.raises(
        DataError, match=r"bomb\.parquet:\d+: the rows have more than 5,000,000 bytes"
    ):
        load(path, max_unpacked_bytes=5_000_000)


def test_rows_that_are_too_large_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", {"text": ["a", "x" * 5_000]})
    dataset = load(path, max_row_bytes=1_000, max_skipped=0.5)
    assert [x.cause for x in dataset.skipped] == ["row larger than 1,000 bytes"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="two columns are named `text`"):
        load(tmp_path / "rows.parquet")


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.parquet", COLUMNS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match="needs pyarrow") as caught:
        load(path)
    assert caught.value.hint == install_extra("parquet")
