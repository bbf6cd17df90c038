"""``data check --against`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Tunesmith = Callable[..., Result]
ITEMS = ["card", "parcel", "invoice", "refund", "password", "account", "voucher", "receipt"]
QUESTIONS = [
    "Where is the {0} that I ordered with my {1} on {2}",
    "Please cancel the {0} and send the {1} before {2}",
    "I lost my {0}, can somebody block the {1} since {2}",
    "How long does a {0} take until the {1} arrives after {2}",
]
DAYS = ["Monday", "Easter", "lunch", "August", "noon", "winter"]
ALIEN = "zygote xylem {0} photosynthesis of chloroplast {1} \x1b[31m"


def ask(start: int, rows: int) -> list[str]:
    return [
        QUESTIONS[n % 4].format(ITEMS[n % 7], ITEMS[(n // 4) % 8], DAYS[(n * 5 // 3) % 6])
        for n in range(start, start + rows)
    ]


@pytest.fixture
def files(tunesmith: Tunesmith, tmp_path: Path) -> Path:
    rows = [{"prompt": text, "completion": text.split()[-1]} for text in ask(0, 200)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [*ask(500, 75), *(ALIEN.format(n, "blot" * n) for n in range(25))]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))
    (tmp_path / "asked.txt").write_text("\n".join(texts))
    return tmp_path


def test_rows_outside_are_named(tunesmith: Tunesmith, files: Path) -> None:
    done = tunesmith("data", "check", "train.jsonl", "--against", "asked.jsonl", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["coverage"]
    assert (found["train_rows"], found["rows"], found["skipped"]) == (200, 100, 0)
    share = found["share"]
    assert share["low"] <= 0.25 <= share["high"] and share["low"] > 0.1
    assert 0 < len(found["chosen"]) <= 20
    for row in found["chosen"]:
        assert int(row["source"].removeprefix("asked.jsonl:")) > 75
        assert "zygote" in row["text"] and row["nearest"].startswith("train.jsonl:")


def test_tables_count_what_cannot_be_read(tunesmith: Tunesmith, files: Path) -> None:
    rows = ["prompt,completion", *(f'"{text}",yes' for text in ask(500, 150)), "one,two,three"]
    (files / "asked.csv").write_text("\n".join(rows))
    done = tunesmith("data", "check", "train.jsonl", "--against", "asked.csv", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["coverage"]
    assert (found["rows"], found["skipped"]) == (150, 1)


def test_personal_data_of_the_rows_to_label_is_masked(tunesmith: Tunesmith, files: Path) -> None:
    secret = "xylem zygote jane.doe@example.com 4111 1111 1111 1111 photosynthesis"
    with (files / "asked.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": secret}) + "\n")
    for options in ((), ("--json",)):
        done = tunesmith("data", "check", "train.jsonl", "--against", "asked.jsonl", *options)
        assert "j\\u2026@example.com 41\\u202611" in done.stdout or "41…11" in done.stdout
        assert "4111" not in done.stdout and "jane" not in done.stdout


def test_the_result_is_in_words(tunesmith: Tunesmith, files: Path) -> None:
    with (files / "asked.txt").open("ab") as file:
        file.write(b"\n\xff\n")
    done = tunesmith("data", "check", "train.jsonl", "--against", "asked.txt")
    assert done.exit_code == 0, done.output
    assert "rows" in done.stdout.partition("\ncoverage of production:\n")[0]
    assert "] of traffic is outside the training data; label the " in done.stdout
    assert "100 production rows were compared with 200 training rows" in done.stdout
    assert "skipped 1 production row that cannot be read" in done.stdout
    assert "asked.txt:" in done.stdout and "\x1b" not in done.stdout


def test_traffic_like_the_training_rows_is_covered(tunesmith: Tunesmith, files: Path) -> None:
    done = tunesmith("data", "check", "train.jsonl", "--against", "train.jsonl")
    assert done.exit_code == 0, done.output
    assert "\n0 % [0, " in done.stdout and "label the " not in done.stdout


def test_a_run_file_names_the_training_rows(tunesmith: Tunesmith, files: Path) -> None:
    rows = [f"{text}\t{text.split()[-1]}\n" for text in ask(0, 120)]
    (files / "data.tsv").write_text("".join(rows))
    done = tunesmith("data", "check", "run.toml", "--against", "asked.jsonl", "--json")
    assert done.exit_code == 0, done.output
    assert (
        60 < json.loads(done.stdout)["coverage"]["train_rows"] <= 116
    )  # without validation and test rows


def test_other_files_are_read_by_their_data_loader(tunesmith: Tunesmith, files: Path) -> None:
    rows = "".join(f'"{text}",yes\n' for text in ask(30, 90))
    (files / "asked.csv").write_text(f"prompt,completion\n{rows}")
    done = tunesmith("data", "check", "train.jsonl", "--against", "asked.csv", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["coverage"]["rows"] == 90


def test_a_file_that_no_loader_knows_is_refused(tunesmith: Tunesmith, files: Path) -> None:
    (files / "data.bin").write_bytes(b"\0\1")
    done = tunesmith("data", "check", "data.bin", "--against", "asked.jsonl")
    assert done.exit_code == 2 and "no data loader recognizes this file" in done.output
