"""Commands that write rows again say which they skip, and refuse files with many such."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from clean_rows import clean_rows
from click.testing import Result

Tunesmith = Callable[..., Result]
WRITERS = {
    "select": ("--rows", "30", "--out", "few.jsonl"),
    "split": ("--out", "parts"),
    "canaries": ("--out", "injected.jsonl", "--secrets", "secrets.json"),
}


def write(path: Path, count: int) -> None:
    rows = [{"prompt": row.prompt, "completion": row.completion} for row in clean_rows()]
    lines = [*map(json.dumps, rows[:count]), '{"prompt": "cut off']
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("name", WRITERS)
def test_rows_that_are_skipped_are_named(tunesmith: Tunesmith, tmp_path: Path, name: str) -> None:
    write(tmp_path / "rows.jsonl", 200)
    done = tunesmith("data", name, "rows.jsonl", *WRITERS[name])
    assert done.exit_code == 0, done.output
    assert "1 row is skipped: " in done.stdout and "rows.jsonl:201" in done.stdout


@pytest.mark.parametrize("name", WRITERS)
def test_json_counts_what_is_skipped(tunesmith: Tunesmith, tmp_path: Path, name: str) -> None:
    write(tmp_path / "rows.jsonl", 200)
    done = tunesmith("data", name, "rows.jsonl", *WRITERS[name], "--json")
    assert done.exit_code == 0, done.output
    assert [*json.loads(done.stdout)["skipped"].values()] == [1]


@pytest.mark.parametrize("name", WRITERS)
def test_many_unusable_rows_are_an_error(tunesmith: Tunesmith, tmp_path: Path, name: str) -> None:
    write(tmp_path / "rows.jsonl", 3)
    done = tunesmith("data", name, "rows.jsonl", *WRITERS[name])
    assert done.exit_code == 3 and "1 of 4 rows cannot be used" in done.stderr
    assert [path.name for path in tmp_path.glob("*") if path.name in WRITERS[name]] == []
