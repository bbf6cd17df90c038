"""``data select`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from clean_rows import clean_rows
from click.testing import Result

Tunesmith = Callable[..., Result]


def write(path: Path, count: int, copies: int = 0) -> list[str]:
    rows = [{"prompt": row.prompt, "completion": row.completion} for row in clean_rows()]
    lines = [json.dumps(row) for row in [*rows[:count], *rows[:copies]]]
    path.write_text("\n".join(lines))
    return lines


def test_rows_are_chosen_and_written_as_they_are(tunesmith: Tunesmith, tmp_path: Path) -> None:
    lines = write(tmp_path / "rows.jsonl", 200, copies=20)
    args = ("data", "select", "rows.jsonl", "--rows", "30")
    done = tunesmith(*args, "--out", "few.jsonl", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema"] == "tunesmith.data-select/1" and found["equal"] == 20
    written = (tmp_path / "few.jsonl").read_text().splitlines()
    numbers = [int(source.rpartition(":")[2]) for source in found["rows"]]
    assert len(written) == 30 and written == [lines[number - 1] for number in numbers]
    done = tunesmith(*args, "--out", "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "few.jsonl").read_bytes()
    assert "wrote 30 of 220 rows to" in done.stdout
    assert "skipped 20 duplicates of earlier rows" in done.stdout


def test_a_file_that_exists_is_kept(tunesmith: Tunesmith, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", 30)
    before = (tmp_path / "rows.jsonl").read_bytes()
    done = tunesmith("data", "select", "rows.jsonl", "--rows", "3", "--out", "rows.jsonl")
    assert done.exit_code == 2 and "rows.jsonl: already exists" in done.stderr
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_too_few_different_rows_are_all_written(tunesmith: Tunesmith, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", 1, copies=1)
    done = tunesmith("data", "select", "rows.jsonl", "--rows", "3", "--out", "few.jsonl")
    assert done.exit_code == 0, done.output
    assert "fewer than 3 different rows" in done.stdout
    assert len((tmp_path / "few.jsonl").read_text().splitlines()) == 1
