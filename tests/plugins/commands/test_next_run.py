"""``next`` on the command line: from a run to the next one, and the comparison of both."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.commands.conftest import RUN_FILE, Tunesmith

from tunesmith_evidence.slices.discover import split_in_halves
from tunesmith_evidence.slices.rows import to_scored_rows


@pytest.fixture
def parent(tunesmith: Tunesmith, tmp_path: Path) -> Path:
    """The folder of a run with 120 test rows."""
    rows = [f"say word{n}\tSAY WORD{n}\n" for n in range(160)]
    (tmp_path / "data.tsv").write_text("".join(rows))
    (tmp_path / "run.toml").write_text(RUN_FILE.replace("test_size = 4", "test_size = 120"))
    assert tunesmith("run", "run.toml", "--out", "parent").exit_code == 0
    return tmp_path / "parent"


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_next_run_keeps_rows_and_options_and_says_where_it_comes_from(
    tunesmith: Tunesmith, parent: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.jsonl").write_text('{"prompt": "say more", "completion": "SAY MORE"}\n' * 3)
    done = tunesmith("next", "parent", "--add", "more.jsonl", "--out", "next")
    assert done.exit_code == 0, done.output
    assert "3 added rows; 120 test rows remain, and 0 moved" in done.output
    tables = tomllib.loads((tmp_path / "next" / "run.toml").read_text())
    assert tables["lineage"] == {"parent": str(parent)}
    assert tables["technique"]["use"] == "by-heart"
    first = read_lines(parent / "evaluations" / "tuned.same.jsonl")
    kept = read_lines(tmp_path / "next" / "test.jsonl")
    assert [row["expected"] for row in first] == [row["completion"] for row in kept]
    again = tunesmith("next", "parent", "--add", "more.jsonl", "--out", "next")
    assert again.exit_code == 2 and "already exists" in again.output
    run = tunesmith("run", "next/run.toml", "--out", "child")
    assert run.exit_code == 0, run.output
    compared = tunesmith("compare", "parent", "child")
    assert compared.exit_code == 0, compared.output
    assert (
        "slices, on the half of the test rows that was not used to collect rows" in compared.output
    )
    assert "rows that parent held out" not in compared.stdout
    shown = json.loads(tunesmith("compare", "parent", "child", "--json").stdout)
    [rest] = [s for s in shown["comparisons"][0]["slices"] if s["name"] == "all other rows"]
    assert rest["outcome"] == "unclear" and 50 <= rest["n"] <= 60


def test_corrected_rows_of_the_export_move_to_training(
    tunesmith: Tunesmith, parent: Path, tmp_path: Path
) -> None:
    path = parent / "evaluations" / "tuned.same.jsonl"
    rows = read_lines(path)
    for row in rows[:40]:
        row["same"]["value"], row["output"] = 0.0, "wrong"
    for row in rows[40:]:
        row["same"]["value"] = 1.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = tunesmith("failures", "parent", "--export", "failed.jsonl", "--for-next")
    assert done.exit_code == 0 and "tunesmith next parent --add" in done.output, done.output
    failed = read_lines(tmp_path / "failed.jsonl")
    first, second = split_in_halves(to_scored_rows(rows, "same"))
    assert {row["source"] for row in failed} == {rows[i]["source"] for i in first if i < 40}
    failed[0]["expected"] = "SAY CORRECTED"
    (tmp_path / "fixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in failed))
    done = tunesmith("next", "parent", "--add", "fixed.jsonl", "--out", "next", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["schema"] == "tunesmith.next/1" and result["moved"] == len(failed)
    assert result["test"] == 120 - len(failed)
    added = read_lines(tmp_path / "next" / "added.jsonl")
    assert added[0]["completion"] == "SAY CORRECTED"
    assert tunesmith("run", "next/run.toml", "--out", "child").exit_code == 0
    compared = tunesmith("compare", "parent", "child")
    assert compared.exit_code == 0, compared.output
    assert (
        f"{len(failed)} test rows of parent moved to the training rows of child" in compared.stdout
    )
    assert "the differences above favor parent" in " ".join(compared.stdout.split())
    found = json.loads(tunesmith("compare", "parent", "child", "--json").stdout)
    assert found["comparisons"][0]["moved"] == len(failed)

    late = rows[second[0]]
    turns = [{"role": role, "content": text} for role, text in late["prompt"]]
    row = {"messages": turns, "expected": late["expected"], "reasons": []}
    (tmp_path / "late.jsonl").write_text(json.dumps(row) + "\n")
    refused = tunesmith("next", "parent", "--add", "late.jsonl", "--out", "other")
    assert refused.exit_code == 2 and "must show the improvement" in refused.output
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"messages": [], "expected": "x", "reasons": []}',
            "more.jsonl:1: the row needs `messages`",
        ),
        (
            '{"messages": [{"role": "user"}], "expected": "x", "reasons": []}',
            "the row needs `messages`",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}], "expected": "", "reasons": []}',
            "needs",
        ),
        ("", ""),
        ("{", ""),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    tunesmith: Tunesmith, parent: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "more.jsonl").write_text(content)
    done = tunesmith("next", "parent", "--add", "more.jsonl", "--out", "next")
    assert done.exit_code in (2, 3) and message in done.output, done.output
    assert not (tmp_path / "next").exists()


def test_collected_rows_need_no_columns_of_slices_and_groups(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"say word{n}", "completion": f"SAY WORD{n}", "market": f"m{n % 3}", "id": n}
        for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = 'use = "jsonl"\ntrain = "rows.jsonl"\ntest_size = 40\nslices = ["market"]\ngroup = "id"'
    old = 'use = "lines"\ntrain = "data.tsv"\ntest_size = 4'
    (tmp_path / "run.toml").write_text(RUN_FILE.replace(old, data))
    done = tunesmith("run", "run.toml", "--out", "parent")
    assert done.exit_code == 0, done.output
    (tmp_path / "more.jsonl").write_text('{"prompt": "say more", "completion": "SAY MORE"}\n' * 3)
    done = tunesmith("next", "parent", "--add", "more.jsonl", "--out", "next")
    assert done.exit_code == 0, done.output
    run = tunesmith("run", "next/run.toml", "--out", "child")
    assert run.exit_code == 0, run.output
    columns = [row["market"] for row in read_lines(tmp_path / "next" / "test.jsonl")]
    assert set(columns) == {"m0", "m1", "m2"}
    assert [row["market"] for row in read_lines(tmp_path / "next" / "added.jsonl")] == [None] * 3


def test_rows_of_the_next_run_keep_the_groups_that_they_were_loaded_with(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    """Near-duplicates of two groups count as one row, and are of two groups all the same."""
    rows = [
        {"prompt": f"say word{n}", "completion": f"SAY WORD{n}", "id": f"u{n}"} for n in range(30)
    ]
    alike = {"prompt": "tell me where the parcel from Rome is now", "completion": "HERE"}
    test = [alike | {"id": "u7"}, alike | {"id": "u8"}, *rows[:8]]
    for name, part in (("train", rows[8:]), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = 'use = "jsonl"\ntrain = "train.jsonl"\ntest = "test.jsonl"\ngroup = "id"'
    head, _, tail = RUN_FILE.partition("[data]\n")
    rest = tail[tail.index("\n[") :]
    (tmp_path / "run.toml").write_text(f"{head}[data]\n{data}\n{rest}")
    assert tunesmith("run", "run.toml", "--out", "parent").exit_code == 0
    (tmp_path / "more.jsonl").write_text('{"prompt": "say more", "completion": "SAY MORE"}\n')
    done = tunesmith("next", "parent", "--add", "more.jsonl", "--out", "next")
    assert done.exit_code == 0, done.output
    kept = read_lines(tmp_path / "next" / "test.jsonl")
    assert [row["group"] for row in kept] == [row["id"] for row in test]
