"""Prompts in files of the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Message
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.baselines.prompt.prompt_file import read_prompt, read_prompts

TOML = """
system = "Be brief."
user = "Message: {prompt}\\nQueue:"

[[shots]]
user = "printer"
assistant = "it"

[[shots]]
user = "invoice"
assistant = "finance"
"""


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_text_file_has_the_system_prompt(tmp_path: Path) -> None:
    prompt = read_prompt(Path(write(tmp_path, "p.txt", "\nBe brief. {not a place}\n")))
    built = prompt.apply_to(FakeTextModel()).build_prompt((Message("user", "Hi"),), 8)
    assert built == (Message("system", "Be brief. {not a place}"), Message("user", "Hi"))


def test_a_toml_file_has_more(tmp_path: Path) -> None:
    prompt = read_prompt(Path(write(tmp_path, "p.toml", TOML)))
    built = prompt.apply_to(FakeTextModel()).build_prompt((Message("user", "toner"),), 8)
    assert [(m.role, m.text) for m in built if isinstance(m, Message)] == [
        ("system", "Be brief."),
        ("user", "printer"),
        ("assistant", "it"),
        ("user", "invoice"),
        ("assistant", "finance"),
        ("user", "Message: toner\nQueue:"),
    ]


def test_prompts_are_named_by_their_files(tmp_path: Path) -> None:
    paths = [write(tmp_path, name, "x") for name in ("a/p.txt", "b/p.txt")]
    assert list(read_prompts(paths)) == paths
    assert list(read_prompts([paths[0], paths[0]])) == ["p.txt"]
    assert read_prompts([]) == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", " \n", "is empty"),
        ("p.toml", "", "is empty"),
        ("p.toml", "system =", "cannot read"),
        ("p.toml", "sytem = 'x'", "unknown key `sytem`"),
        ("p.toml", "system = 1", "`system`: expected a string, got 1"),
        ("p.toml", "user = 'no place'", "does not contain {prompt}"),
        ("p.toml", "shots = 'x'", "expected a list of tables"),
        ("p.toml", "shots = [{user = 'x'}]", "entry 1: expected a table"),
        (
            "p.toml",
            "shots = [{user = 'x', assistant = 1}]",
            "entry 1: `user` and `assistant` must be",
        ),
    ],
)
def test_an_error_names_the_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(DataError) as error:
        read_prompt(Path(path))
    assert path in str(error.value)
    assert message in str(error.value)
    assert error.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_prompt(tmp_path / "nowhere.txt")
