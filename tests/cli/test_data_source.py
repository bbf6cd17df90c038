"""Data files are opened with the options of the command line, by a guessed or named loader."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.catalog import Catalog
from tunesmith.errors import UsageError
from tunesmith.plugins import find_plugins
from tunesmith_cli.data_source import DataSource, load_file, read_keys


def test_a_file_is_loaded_with_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("wort,folge\nGrüße,für\n", encoding="cp1252")
    source = DataSource(path, ("data.encoding=cp1252", "data.columns.prompt=folge"))
    keys = {**read_keys(source), "columns": {"prompt": "folge", "completion": "wort"}}
    loaded = load_file(keys, Catalog(find_plugins()), {"max_skipped": 1.0, "unknown": 3})
    assert loaded.use == "table"
    assert loaded.dataset.train[0].prompt == "für"  # type: ignore[attr-defined]
    assert loaded.table["max_skipped"] == 1.0 and "unknown" not in loaded.table


def test_other_tables_need_a_run_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run file"):
        read_keys(DataSource(tmp_path / "rows.csv", ("technique.rank=3",)))
