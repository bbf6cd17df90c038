"""Run files: the order of overrides, and errors that name their position."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import run_file
from tunesmith.errors import ConfigError, UsageError

TEXT = """
[technique]
use = "echo"
rank = 1

[[evaluators]]
use = "loss"

[[evaluators]]
use = "exact-match"
limit = 3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_run_file_without_overrides(path: Path) -> None:
    read = run_file.read_run_file(path, environment={})
    assert read.tables["technique"] == {"use": "echo", "rank": 1}
    assert (read.folder, read.stem) == (path.parent, "tickets")
    assert read.origins["technique.rank"] == "tickets.toml"
    assert read.origins["evaluators.1.limit"] == "tickets.toml"


def test_command_line_over_environment_over_file(path: Path) -> None:
    environment = {"TUNESMITH__TECHNIQUE__RANK": "2", "TUNESMITH__RUN__SEED": "5", "RANK": "9"}
    read = run_file.read_run_file(path, environment=environment)
    assert read.tables["technique"]["rank"] == 2
    assert read.origins["technique.rank"] == "environment variable TUNESMITH__TECHNIQUE__RANK"
    read = run_file.read_run_file(path, sets=["technique.rank=3"], environment=environment)
    assert read.tables["technique"]["rank"] == 3
    assert read.tables["run"] == {"seed": 5}
    assert read.origins["technique.rank"] == "--set"


def test_overrides_are_read_from_the_process_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH__TECHNIQUE__RANK", "7")
    assert run_file.read_run_file(path).tables["technique"]["rank"] == 7
    assert run_file.read_run_file(path, environment={}).tables["technique"]["rank"] == 1


def test_the_last_set_wins(path: Path) -> None:
    read = run_file.read_run_file(
        path, sets=["technique.rank=3", "technique.rank=4"], environment={}
    )
    assert read.tables["technique"]["rank"] == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("2e-4", 2e-4),
        ("true", True),
        ('"8"', "8"),
        ("lora", "lora"),
        ("", ""),
        ("a=b", "a=b"),
        ('["q_proj", "v_proj"]', ["q_proj", "v_proj"]),
        ("{a = 1}", {"a": 1}),
        ("True", "True"),
        ("#1", "#1"),
    ],
)
def test_values_are_toml_or_plain_text(text: str, value: object) -> None:
    assert run_file.parse_value(text) == value


def test_numbers_index_lists_of_tables(path: Path) -> None:
    sets = ["evaluators.1.limit=9", "evaluators.0.use=perplexity"]
    tables = run_file.read_run_file(path, sets=sets, environment={}).tables
    assert tables["evaluators"] == [{"use": "perplexity"}, {"use": "exact-match", "limit": 9}]


def test_a_key_of_a_nested_table_is_set_and_its_origin_recorded(path: Path) -> None:
    sets = ["technique.adapter.rank=8"]
    environment = {"TUNESMITH__TECHNIQUE__ADAPTER__ALPHA": "4.0"}
    read = run_file.read_run_file(path, sets=sets, environment=environment)
    assert read.tables["technique"]["adapter"] == {"alpha": 4.0, "rank": 8}
    assert read.origins["technique.adapter.rank"] == "--set"
    assert read.origins["technique.adapter.alpha"].startswith("environment variable")


def test_a_table_that_is_set_replaces_keys_and_origins(path: Path) -> None:
    """A key that the new table lacks has its default, so its old origin must not be shown."""
    path.write_text("[technique.adapter]\nrank = 1\nalpha = 2.0\n", encoding="utf-8")
    sets = ["technique.adapter={rank = 8}"]
    read = run_file.read_run_file(path, sets=sets, environment={})
    assert read.tables["technique"]["adapter"] == {"rank": 8}
    assert read.origins == {"technique.adapter.rank": "--set"}


@pytest.mark.parametrize(
    "key, reason",
    {
        "evaluators.2.limit": "the list has 2 items, so the index must be below 2",
        "evaluators.x": "the list has 2 items, so the index must be below 2",
        "technique.rank.x": '"technique.rank" is not a table',
        "technique.": "its last part is empty",
    }.items(),
)
def test_an_override_of_an_unknown_item_is_refused(path: Path, key: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="--set") as raised:
        run_file.read_run_file(path, sets=[f"{key}=1"], environment={})
    assert reason in str(raised.value)


def test_set_without_a_value_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match="expected key=value"):
        run_file.read_run_file(path, sets=["technique.rank"], environment={})


def test_a_syntax_error_shows_the_line_with_a_caret(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[run]\nname = "a"\nseed = = 3\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        run_file.read_run_file(path, environment={})
    (problem,) = caught.value.problems
    assert problem.where == f"{path}:3:8"
    assert problem.what.splitlines()[1:] == ["  seed = = 3", "         ^"]


def test_a_duplicate_key_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[run]\nseed = 1\nseed = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.toml:3"):
        run_file.read_run_file(path, environment={})


def test_a_missing_file_and_invalid_utf8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run file"):
        run_file.read_run_file(tmp_path / "no.toml", environment={})
    (tmp_path / "run.toml").write_bytes(b"[run]\nname = \xff\n")
    with pytest.raises(ConfigError, match="not valid UTF-8 at byte 13"):
        run_file.read_run_file(tmp_path / "run.toml", environment={})
    with pytest.raises(UsageError, match="no such run file"):
        run_file.read_run_file(tmp_path, environment={})


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_with_its_position(text: str) -> None:
    try:
        run_file.parse(text, "run.toml")
    except ConfigError as error:
        assert error.problems[0].where.startswith("run.toml")


# ------------------------------------------------------------ files that Python cannot read


def test_a_byte_order_mark_is_read(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert run_file.read_run_file(path, environment={}).tables["technique"]["rank"] == 1


@pytest.mark.parametrize(
    ("value", "what"), [("9" * 5000, "thousands of digits"), ("[" * 3000 + "]" * 3000, "too deep")]
)
def test_values_beyond_what_python_reads_are_named(path: Path, value: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        run_file.read_run_file(path, sets=[f"run.seed={value}"], environment={})
    path.write_text(f"[run]\nname = 'one'\nseed = {value}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"tickets.toml:3: .*{what}"):
        run_file.read_run_file(path, environment={})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TUNESMITH_TECHNIQUE__RANK", "TUNESMITH__TECHNIQUE__RANK"),
        ("TUNESMITH_TECHNIQUE_RANK", "TUNESMITH__TECHNIQUE__RANK"),
        ("TUNESMITH___RUN__SEED", ""),
        ("TUNESMITH_RUN_SEED", "TUNESMITH__RUN__SEED"),
        ("tunesmith__run__seed", "TUNESMITH__RUN__SEED"),
        ("TUNESMITH_CACHE", ""),
        ("TUNESMITH_PLUGINS", ""),
        ("TUNESMITH_RANKS", ""),
    ],
)
def test_a_variable_that_is_nearly_an_override_is_refused(
    path: Path, name: str, meant: str
) -> None:
    if not meant:
        run_file.read_run_file(path, environment={name: "3"})
        return
    with pytest.raises(ConfigError, match=f"{name}: .*did you mean {meant}\\?"):
        run_file.read_run_file(path, environment={name: "3"})


@pytest.mark.parametrize(
    ("name", "content"),
    [("my rows.csv", b"a,b\n1,2\n"), ("a.jsonl", b'{"a": 1}\n'), ("a.xlsx", b"PK\x03\x04\xff")],
)
def test_a_data_file_in_place_of_a_run_file_is_named(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a run file") as caught:
        run_file.read_run_file(path, environment={})
    assert f"tunesmith init --data {shlex.quote(str(path))}" in str(caught.value.hint)
