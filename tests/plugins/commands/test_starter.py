"""``tunesmith init`` writes a run file, or copies an example project."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import Result

from tunesmith_plugins.commands.starter.choose import StarterChoice
from tunesmith_plugins.commands.starter.init_command import fill_template

Tunesmith = Callable[..., Result]


def test_init_writes_a_run_file_that_parses_and_overwrites_nothing(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    (tmp_path / 'tick"ets.jsonl').write_text('{"prompt": "p", "completion": "c"}\n')
    done = tunesmith("init", "new", "--data", 'tick"ets.jsonl', "--model", "C:\\models")
    assert done.exit_code == 0, done.output
    written = tomllib.loads((tmp_path / "new" / "run.toml").read_text())
    assert written["data"]["train"] == '../tick"ets.jsonl'
    assert written["model"]["base"] == "C:\\models"
    assert tunesmith("init", "new").exit_code == 2
    assert tunesmith("init", "new", "--force").exit_code == 0


def test_init_copies_an_example(tunesmith: Tunesmith, tmp_path: Path) -> None:
    done = tunesmith("init", "desk", "--example", "helpdesk")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "desk").iterdir()} >= {"run.toml", "train.jsonl"}
    assert tunesmith("init", "--example", "helpdesk", "desk").exit_code == 2
    assert 'did you mean "helpdesk"?' in tunesmith("init", "--example", "heldpesk").stderr


def test_init_prints_the_next_commands(tunesmith: Tunesmith, tmp_path: Path) -> None:
    done = tunesmith("init", "new")
    assert done.stdout == "new/run.toml\n"
    assert "set data.train to your data file" in done.stderr
    assert "tunesmith run new/run.toml" in done.stderr
    missing = tunesmith("init", "other", "--data", "gone.jsonl")
    assert missing.exit_code == 2 and "gone.jsonl: no such file" in missing.stderr


def test_a_template_keeps_every_value() -> None:
    choice = StarterChoice(
        "table",
        {"columns.prompt": 'a "question"'},
        "preference",
        {"loss.type": "kto"},
        ["loss", "length"],
    )
    text = fill_template(choice, model='a"b', data="naïve.csv")
    tables = tomllib.loads(text)
    assert tables["model"]["base"] == 'a"b'
    assert (tables["data"]["use"], tables["data"]["train"]) == ("table", "naïve.csv")
    assert tables["data"]["columns"] == {"prompt": 'a "question"'}
    assert tables["technique"] == {"use": "preference", "loss": {"type": "kto"}}
    assert [table["use"] for table in tables["evaluators"]] == ["loss", "length"]


TURNS = [{"role": "user", "content": "q {n}"}, {"role": "assistant", "content": "a {n}"}]
DATA = {
    "rows.jsonl": ({"prompt": "p", "completion": "c {n}"}, "jsonl", {}, "lora"),
    "rows.json": ({"messages": TURNS}, "jsonl", {}, "lora"),
    "pairs.jsonl": ({"prompt": "p", "chosen": "{n}", "rejected": "b"}, "jsonl", {}, "preference"),
    "rows.csv": (
        {"text": "I lost my card {n}", "category": "lost_card_{n}"},
        "table",
        {"prompt": "text", "completion": "category"},
        "lora",
    ),
    "rows.tsv": ({"Left": "l {n}", "Right": "r {n}"}, "table", {"prompt": "Left"}, "lora"),
    "rows.parquet": ({"query": "q {n}", "sql": "s {n}"}, "table", {"prompt": "query"}, "lora"),
    "notes.md": ({"text": "Some text {n}."}, "text", {}, "lora"),
}


@pytest.mark.parametrize("name", DATA)
def test_init_writes_a_run_file_that_suits_the_data(
    tunesmith: Tunesmith, tmp_path: Path, name: str
) -> None:
    row, loader, columns, technique = DATA[name]
    write_data(tmp_path / name, row)
    done = tunesmith("init", ".", "--force", "--data", name)
    assert done.exit_code == 0, done.output
    written = tomllib.loads((tmp_path / "run.toml").read_text())
    assert (written["data"]["use"], written["technique"]["use"]) == (loader, technique)
    assert columns.items() <= written["data"].get("columns", {}).items()
    assert written["evaluators"]
    checked = tunesmith("check", "run.toml", "--set", "model.base=fake:one")
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("with_pairs", [False, True])
def test_init_for_answers_with_labels(
    tunesmith: Tunesmith, tmp_path: Path, with_pairs: bool
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"p {n}", "completion": "c" * (1 + n % 3), "label": n % 2 == 0}
        for n in range(40)
    ]
    (tmp_path / "kto.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = tunesmith("init", ".", "--force", "--data", "kto.jsonl")
    assert done.exit_code == 0, done.output
    written = tomllib.loads((tmp_path / "run.toml").read_text())
    assert written["technique"] == {"use": "preference", "loss": {"type": "kto"}}
    evaluators = [table["use"] for table in written["evaluators"]]
    assert evaluators[0] == "reward-margin" and "loss" in evaluators
    assert not {"exact-match", "preference-accuracy"} & {*evaluators}
    if with_pairs:
        pairs = [{"prompt": f"q {n}", "chosen": f"a {n}", "rejected": "b"} for n in range(20)]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
        text = (tmp_path / "run.toml").read_text()
        text = text.replace('use = "jsonl"\ntrain = "kto.jsonl"', MIXTURE)
        (tmp_path / "run.toml").write_text(text)
    checked = tunesmith("check", "run.toml", "--set", "model.base=fake:one")
    assert checked.exit_code == 0, checked.output
    assert ("preference pairs" in checked.stdout) == with_pairs
    assert "labeled answers" in checked.stdout


MIXTURE = """use = "mixture"
sources = [{ train = "kto.jsonl" }, { train = "pairs.jsonl" }]"""


def test_init_refuses_data_that_it_cannot_read(tunesmith: Tunesmith, tmp_path: Path) -> None:
    (tmp_path / "rows.bin").write_bytes(b"\0\1")
    assert (
        "no data loader recognizes this file" in tunesmith("init", "a", "--data", "rows.bin").stderr
    )
    (tmp_path / "rows.jsonl").write_text('{"a": "1", "b": "2", "c": "3"}\n')
    refused = tunesmith("init", "a", "--data", "rows.jsonl")
    assert refused.exit_code == 3 and "no known format" in refused.stderr
    assert not (tmp_path / "a").exists()
    unknown = tunesmith("init", "a", "--data", "rows.jsonl", "--loader", "jsnl")
    assert unknown.exit_code == 2 and 'did you mean "jsonl"?' in unknown.stderr
    needs_more = tunesmith("init", "a", "--data", "rows.jsonl", "--loader", "sql")
    assert needs_more.exit_code == 2 and "--loader sql: data" in needs_more.stderr
    as_folder = tunesmith("init", "rows.jsonl")
    assert as_folder.exit_code == 2 and "tunesmith init --data rows.jsonl" in as_folder.stderr


def write_data(path: Path, row: dict[str, Any]) -> None:
    """Write forty rows in the format of the suffix; `{n}` is the number of the row."""
    rows = [json.loads(json.dumps(row).replace("{n}", str(n))) for n in range(40)]
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(item) + "\n" for item in rows))
        case ".json":
            path.write_text(json.dumps(rows))
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case ".csv" | ".tsv":
            with path.open("w", newline="") as file:
                delimiter = "," if path.suffix == ".csv" else "\t"
                writer = csv.DictWriter(file, list(row), delimiter=delimiter)
                writer.writeheader()
                writer.writerows(rows)
        case _:
            path.write_text("\n\n".join(item["text"] * 40 for item in rows) * 4)


def test_example_lists_and_copies(tunesmith: Tunesmith, tmp_path: Path) -> None:
    assert "helpdesk, repairs" in tunesmith("init", "--recipe", "x").stderr
    done = tunesmith("init", "--example", "helpdesk", "helpdesk")
    assert done.exit_code == 0, done.output
    assert "tunesmith run helpdesk/run.toml" in done.stderr
    refused = tunesmith("init", "helpdesk", "--recipe", "helpdesk")
    assert refused.exit_code == 2 and "overwrite the file with --force" in refused.stderr
    assert tunesmith("init", "helpdesk", "--example", "helpdesk", "--force").exit_code == 0
    escaped = tunesmith("init", "a\x1b[31mb", "--example", "helpdesk")
    assert escaped.exit_code == 0 and "\x1b" not in escaped.output
    for name in ("helpdesk", "repairs"):
        assert tunesmith("init", "helpdesk/run.toml", "--example", name).exit_code == 2
    unknown = tunesmith("init", "x", "--example", "heldpesk")
    assert unknown.exit_code == 2 and 'did you mean "helpdesk"?' in unknown.stderr


def test_init_takes_a_pattern_as_a_run_file_does(tunesmith: Tunesmith, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for name in ("a", "b"):
        write_data(tmp_path / "parts" / f"{name}.jsonl", {"prompt": "p {n}", "completion": "c {n}"})
    assert tunesmith("init", "new", "--data", "parts/*.jsonl").exit_code == 0
    written = tomllib.loads((tmp_path / "new" / "run.toml").read_text(encoding="utf-8"))
    assert written["data"] == {"use": "jsonl", "train": "../parts/*.jsonl"}
    folder = tunesmith("init", "b", "--data", "parts")
    assert folder.exit_code == 3 and "a pattern, such as parts/*.jsonl" in folder.stderr
    assert "matches no files" in tunesmith("init", "b", "--data", "absent/*.jsonl").stderr


def test_init_writes_a_run_file_for_rows_that_must_be_fixed(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    """Whose error, with what to change in that file, `check` prints."""
    write_data(tmp_path / "rows.jsonl", {"prompt": "p {n}", "completion": "c {n}"})
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "cut off')
    done = tunesmith("init", "new", "--data", "rows.jsonl")
    assert done.exit_code == 0 and "1 row cannot be used; `tunesmith check`" in done.stderr
    written = tomllib.loads((tmp_path / "new" / "run.toml").read_text(encoding="utf-8"))
    assert written["data"] == {"use": "jsonl", "train": "../rows.jsonl"}


@pytest.mark.parametrize("option", ["--data", "--model", "--encoding", "--from"])
def test_init_refuses_options_that_an_example_ignores(
    tunesmith: Tunesmith, tmp_path: Path, option: str
) -> None:
    refused = tunesmith("init", "new", "--recipe", "helpdesk", option, "x")
    assert refused.exit_code == 2
    assert f"{option}: has no effect with --recipe" in refused.stderr
    if option != "--from":
        refused = tunesmith("init", "new", "--from", "peer.yaml", option, "x")
        assert f"{option}: has no effect with --from" in refused.stderr
    assert not (tmp_path / "new").exists()


def test_init_takes_columns_and_encoding(tunesmith: Tunesmith, tmp_path: Path) -> None:
    text = "Nr;Anfrage;Lösung\n" + "".join(f"{n};frage {n};wärme\n" for n in range(12))
    (tmp_path / "de.csv").write_text(text, encoding="cp1252")
    refused = tunesmith("init", "new", "--data", "de.csv")
    assert refused.exit_code == 3 and 'encoding = "cp1252"' in refused.stderr
    chosen = ["--encoding", "cp1252", "--prompt", "Anfrage", "--completion", "Lösung"]
    done = tunesmith("init", "new", "--data", "de.csv", *chosen)
    assert done.exit_code == 0, done.output
    written = tomllib.loads((tmp_path / "new" / "run.toml").read_text(encoding="utf-8"))
    assert written["data"]["encoding"] == "cp1252"
    assert written["data"]["columns"] == {"prompt": "Anfrage", "completion": "Lösung"}
    wrong = tunesmith("init", "b", "--data", "de.csv", *chosen[:-1], "Losung")
    assert wrong.exit_code == 3 and "did you mean `Lösung`" in wrong.stderr
    assert tunesmith("init", "c", *chosen).exit_code == 2
