"""``data split`` on the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tunesmith_data.splits import PARTS

Tunesmith = Callable[..., Result]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, count: int, distinct: int, added: int = 0) -> None:
    rows = [
        (f"question {n % distinct} about thing {n % distinct * 7}", f"a{n}") for n in range(count)
    ]
    rows += [(f"another one {n} of {n * 11}", "b") for n in range(added)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "completion"), *rows])


def test_parts_are_written_without_leaks_and_kept_when_rows_are_added(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    data, out = tmp_path / "rows.csv", tmp_path / "parts"
    write_rows(data, 300, 170)
    result = tunesmith("data", "split", data, "--out", out, "--test-size", "60", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"] == {"train": 216, "validation": 24, "test": 60}
    first = {part: rows_of(out / f"{part}.jsonl") for part in PARTS}
    prompts = [{row["prompt"] for row in rows} for rows in first.values()]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    table = list(csv.DictReader((out / "clusters.csv").open()))
    assert len(table) == 300
    part_of_cluster: dict[str, set[str]] = {}
    for row in table:
        part_of_cluster.setdefault(row["cluster"], set()).add(row["part"])
    assert all(len(parts) == 1 for parts in part_of_cluster.values())
    before = {part: (out / f"{part}.jsonl").read_bytes() for part in PARTS}
    assert tunesmith("data", "split", data, "--out", out, "--test-size", "60").exit_code == 0
    assert {part: (out / f"{part}.jsonl").read_bytes() for part in PARTS} == before
    write_rows(data, 300, 170, added=40)
    assert tunesmith("data", "split", data, "--out", out, "--test-size", "60").exit_code == 0
    for part in PARTS:
        again = rows_of(out / f"{part}.jsonl")
        assert [row for row in first[part] if row not in again] == []


def test_a_size_that_is_none_is_refused(tunesmith: Tunesmith, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    write_rows(data, 30, 30)
    for args, text in (
        ((data, "--test-size", "some"), "must be a share below 1 or a number of rows"),
        ((data, "--test-size", "30"), "leaves no rows to train on"),
    ):
        result = tunesmith("data", "split", *args, "--out", tmp_path / "parts")
        assert result.exit_code in (2, 3) and text in result.output


def test_what_is_written_is_said(tunesmith: Tunesmith, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    write_rows(data, 150, 150)
    result = tunesmith(
        "data", "split", data, "--out", tmp_path / "parts", "--validation-size", "0.2"
    )
    assert "wrote 96 rows to" in result.output and "wrote 24 rows to" in result.output
    assert "150 rows were assigned and written to split.json" in result.output.replace("\n", " ")


@pytest.mark.parametrize("part", PARTS)
def test_empty_parts_have_a_file(tunesmith: Tunesmith, tmp_path: Path, part: str) -> None:
    data = tmp_path / "rows.csv"
    write_rows(data, 30, 30)
    done = tunesmith("data", "split", data, "--out", tmp_path / "parts")
    assert done.exit_code == 0 and (tmp_path / "parts" / f"{part}.jsonl").is_file()
    advice = f"{part}.jsonl; do not set data.{part}, or split with --{part}-size"
    assert (advice in done.stdout) == (part == "validation")
