"""The benchmark on commits: rows divided by time in each author, and no names."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from benchmarks.commits import choose_rows, read_commits


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with 20 commits of two people and one of a bot, written as one stream."""
    folder = tmp_path_factory.mktemp("repository")
    stream = ""
    for n in range(21):
        name = "helper[bot]" if n == 20 else ("Ann Abel", "Ben Böll")[n % 2]
        stream += (
            f"commit refs/heads/main\nauthor {name} <x@y.z> {1000 + n} +0000\n"
            f"committer {name} <x@y.z> {1000 + n} +0000\ndata <<END\nFix thing {n}\n\nBody\nEND\n"
            f"M 100644 inline src/file {n}.py\ndata <<END\n{n}\nEND\n\n"
        )
    subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
    git = ["git", "-C", folder, "fast-import", "--quiet"]
    subprocess.run(git, input=stream.encode(), check=True)
    subprocess.run(["git", "-C", folder, "symbolic-ref", "HEAD", "refs/heads/main"], check=True)
    return folder


def test_rows_are_divided_by_time_in_each_author(repository: Path) -> None:
    parts = choose_rows([*read_commits(repository)], authors=5, rows=10)
    assert {part: len(rows) for part, rows in parts.items()} == {
        "train": 10, "validation": 4, "test": 6,
    }  # fmt: skip
    for user in {row["user"] for row in parts["train"]}:
        numbers = [
            int(row["prompt"].split()[-1])
            for part in ("train", "validation", "test")
            for row in parts[part]
            if row["user"] == user
        ]
        assert numbers == sorted(numbers) and len(numbers) == 10


def test_a_row_has_the_paths_and_the_rest_of_the_subject_but_no_name(repository: Path) -> None:
    commit = next(read_commits(repository))
    assert commit.row["completion"] == "Fix"
    assert "src/file 0.py" in commit.row["prompt"] and commit.row["prompt"].endswith("thing 0")
    assert "ann" not in json.dumps(commit.row).casefold()
    assert not [c for c in read_commits(repository) if c.rest == "thing 20"], "the bot's commit"
