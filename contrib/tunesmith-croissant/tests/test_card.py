"""mlcroissant accepts the description, and reads the rows of each split with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mlcroissant
import pytest
from click.testing import CliRunner

from tunesmith.errors import UsageError
from tunesmith_cli.app import app
from tunesmith_croissant.card import describe_folder, find_type, validate
from tunesmith_croissant.command import command

README = Path(__file__).parents[1] / "README.md"


def describe(*words: str | Path) -> Any:
    return CliRunner().invoke(command, [*map(str, words)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that ``data split`` writes."""
    rows = [
        {"prompt": f"question {n} about {'a' * (n % 7)}", "completion": f"answer {n}", "team": "a"}
        for n in range(40)
    ]
    file = tmp_path / "tickets.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data", "split", file, "--out", tmp_path / "parts", "--test-size", "10"]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return tmp_path / "parts"


def test_the_description_is_valid_and_reads_the_rows(folder: Path) -> None:
    words = ("--license", "https://choosealicense.com/licenses/mit", "--based-on", "help desk")
    done = describe(folder, "--description", "Tickets.", *words)
    assert done.exit_code == 0, done.output
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not dataset.metadata.issues.errors
    for part in ("train", "test"):
        lines = (folder / f"{part}.jsonl").read_text().splitlines()
        read = [*dataset.records(part)]
        assert len(read) == len(lines) > 0
        for found, line in zip(read, lines, strict=True):
            row = json.loads(line)
            assert found[f"{part}/prompt"].decode() == row["prompt"]
            assert found[f"{part}/completion"].decode() == row["completion"]
    names = {record["splits/name"] for record in dataset.records("splits")}
    assert {"train", "test"} <= names
    card = json.loads((folder / "croissant.json").read_text())
    for file in card["distribution"]:
        content = (folder / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["isBasedOn"] == ["help desk"]


def test_a_changed_file_is_noticed(folder: Path) -> None:
    assert describe(folder).exit_code == 0
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"prompt": "x", "completion": "y"}\n')
    with pytest.raises(Exception, match=r"Download\(train.jsonl\)") as caught:
        [*mlcroissant.Dataset(jsonld=str(folder / "croissant.json")).records("train")]
    assert "hash" in repr(caught.value.__cause__).lower()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((1, 2), "sc:Integer"),
        ((1, 2.5, None), "sc:Float"),
        ((True,), "sc:Boolean"),
        (("a", 1), "sc:Text"),
        (([1],), "sc:Text"),
        ((None,), "sc:Text"),
    ],
)
def test_types_of_columns(values: tuple[object, ...], name: str) -> None:
    assert find_type({type(value) for value in values}) == name


def test_folders_without_rows_and_existing_cards_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no .jsonl files" in str(describe(tmp_path / "empty").exception)
    (folder / "croissant.json").touch()
    assert "already exists" in str(describe(folder).exception)


def test_invalid_descriptions_are_refused(folder: Path) -> None:
    card = describe_folder(folder, "tickets", {})
    validate(card)
    card["recordSet"][1]["field"][0]["source"]["fileObject"]["@id"] = "other.jsonl"
    with pytest.raises(UsageError, match="does not follow Croissant"):
        validate(card)
