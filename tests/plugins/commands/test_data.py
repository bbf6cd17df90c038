"""``data show``, ``data stats`` and ``data fix`` on the command line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Part,
    Preference,
    Preview,
    Record,
    Text,
    TextPart,
    ToolCall,
    UnpairedPreference,
)
from tunesmith_cli.app import app
from tunesmith_data import parse_row
from tunesmith_plugins.commands.data.fixes import Fixer
from tunesmith_plugins.commands.data.open_data import text_parts
from tunesmith_plugins.commands.data.show import ShownRow, _to_text
from tunesmith_plugins.commands.data.tokens import create_tokenize
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.testing.tiny_model import CHATML, save_tiny_model

Tunesmith = Callable[..., Result]
ROWS = """{"prompt": "Capital of France?", "completion": "Paris"}
{"prompt": "Capital of Spain?", "completion": "Madrid"}
{"prompt": "broken", "completion": ""}
{"prompt": "A longer question \\u001b[31m", "completion": "hf_abcdefghijklmnopqrstuvwxyz012345"}
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS)
    return path


# ------------------------------------------------------------------------- show


def test_every_kind_of_record_has_its_parts() -> None:
    question = Message("user", "q")
    answer = Message("assistant", "a", reasoning="r", tool_calls=(ToolCall("f", "{}"),))
    silent = Message("assistant", "a", weight=0)
    parts = {
        Text(source="s", text="t"): [("text", "t", True)],
        Completion(source="s", prompt="p", completion="c"): [
            ("user", "p", False),
            ("assistant", "c", True),
        ],
        Chat(source="s", messages=(question, silent, question, answer)): [
            ("user", "q", False),
            ("assistant", "a", False),
            ("user", "q", False),
            ("assistant", "r\na\nf({})", True),
        ],
        Preference(source="s", prompt=(question,), chosen="c", rejected="r"): [
            ("user", "q", False),
            ("chosen", "c", True),
            ("rejected", "r", True),
        ],
        UnpairedPreference(source="s", prompt=(question,), completion="c", label=False): [
            ("user", "q", False),
            ("bad", "c", True),
        ],
    }
    for record, expected in parts.items():
        assert text_parts(record) == expected
    assert text_parts(Record(source="s"))[0][2]


def test_show_marks_the_trained_text(tunesmith: Tunesmith, rows: Path) -> None:
    done = tunesmith("data", "show", "rows.jsonl", "--count", "1")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "rows.jsonl:1: 23 characters",
        "  user      Capital of France?",
        "| assistant Paris",
        "",
    ]


@dataclass(frozen=True)
class Flag(Part):
    """An image of two columns and three rows."""

    def describe(self) -> str:
        return "flag"

    def preview(self, side: int) -> Preview:
        return Preview("flag", 2, 3, bytes(range(18)), "image/png", b"")


def test_images_are_drawn_where_the_terminal_can(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = (Message("user", (Flag(), TextPart("Which?"))), Message("assistant", "a"))
    row = ShownRow(Chat(source="f:1", messages=messages), 9)
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "[flag] Which?" in _to_text(row) and "▀" not in _to_text(row)
    monkeypatch.setenv("COLORTERM", "truecolor")
    *_, upper, lower, _ = _to_text(row).split("\n")
    blocks = [
        "\x1b[38;2;0;1;2m\x1b[48;2;6;7;8m▀\x1b[0m", "\x1b[38;2;3;4;5m\x1b[48;2;9;10;11m▀\x1b[0m",
        "\x1b[38;2;12;13;14m▀\x1b[0m", "\x1b[38;2;15;16;17m▀\x1b[0m",
    ]  # fmt: skip
    assert (upper, lower) == ("".join(blocks[:2]), "".join(blocks[2:]))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "▀" not in _to_text(row)


def test_show_filters_by_source_and_length(tunesmith: Tunesmith, rows: Path) -> None:
    def shown(*options: str) -> list[str]:
        done = tunesmith("data", "show", "rows.jsonl", "--json", *options)
        assert done.exit_code == 0, done.output
        return [json.loads(line)["source"] for line in done.stdout.splitlines()]

    assert shown() == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:4"]
    assert shown("--source", "jsonl:2") == ["rows.jsonl:2"]
    assert shown("--min-length", "30") == ["rows.jsonl:4"]
    assert shown("--max-length", "23", "--start", "2") == ["rows.jsonl:2"]
    assert shown("--part", "test") == []


def test_show_prints_nothing_that_controls_the_terminal(tunesmith: Tunesmith, rows: Path) -> None:
    for options in ((), ("--json",), ("--skipped",)):
        done = tunesmith("data", "show", "rows.jsonl", *options)
        assert "\x1b" not in done.stdout and "abcdefghijklm" not in done.stdout


def test_show_prints_the_rows_that_are_skipped(tunesmith: Tunesmith, rows: Path) -> None:
    done = tunesmith("data", "show", "rows.jsonl", "--skipped")
    assert done.stdout.splitlines()[:2] == [
        "rows.jsonl:3: answer is empty",
        '  {"prompt": "broken", "completion": ""}',
    ]
    row = json.loads(tunesmith("data", "show", "rows.jsonl", "--skipped", "--json").stdout)
    assert (row["where"], row["cause"]) == ("rows.jsonl:3", "answer is empty")


def test_show_reads_run_files_and_needs_one_for_tokens(tunesmith: Tunesmith, rows: Path) -> None:
    done = tunesmith("data", "show", "run.toml", "--part", "test", "--json")
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 4
    refused = tunesmith("data", "show", "rows.jsonl", "--tokens")
    assert refused.exit_code == 2 and "this option needs a run file" in refused.stderr
    (rows.parent / "x.bin").write_bytes(b"\0")
    assert "no data loader recognizes" in tunesmith("data", "show", "x.bin").stderr


def test_show_prints_both_modes_of_a_thinking_template(tmp_path: Path) -> None:
    switch = (
        "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    )
    save_tiny_model(tmp_path / "switch", template=CHATML + switch)
    (tmp_path / "rows.jsonl").write_text(ROWS.replace('""', '"?"'))
    (tmp_path / "run.toml").write_text(
        '[model]\nbase = "switch"\n[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\n'
        '[technique]\nuse = "lora"\n'
    )
    done = CliRunner().invoke(app, ["data", "show", str(tmp_path / "run.toml"), "--tokens"])
    assert done.exit_code == 0, done.output
    on, off = (line for line in done.stderr.splitlines() if "prompts end with" in line)
    assert "enable_thinking = true (used here)" in on and on.endswith('assistant\\n"')
    assert "enable_thinking = false: " in off and "<think>\\n\\n</think>" in off
    assert "think" not in done.stdout


# ------------------------------------------------------------------------ stats


def test_stats_count_rows_duplicates_and_labels(tunesmith: Tunesmith, tmp_path: Path) -> None:
    lines = [{"prompt": f"q{n % 9}", "completion": "yes" if n % 3 else "no"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    done = tunesmith("data", "stats", "rows.jsonl", "--json")
    assert done.exit_code == 0, done.output
    part = json.loads(done.stdout)["parts"]["train"]
    assert (part["rows"], part["duplicates"]) == (12, 3)
    assert part["labels"] == {"yes": 8, "no": 4}
    assert part["characters"]["assistant"]["longest"] == 3
    text = tunesmith("data", "stats", "rows.jsonl").stdout
    assert "train: 12 rows (12 Completion)" in text and "labels: yes 8, no 4" in text


def test_stats_have_the_usual_median_and_one_spelling_of_a_label(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    labels = ["caf\u00e9", "cafe\u0301", "late  fee", "late fee"] * 3
    lines = [
        {"prompt": "q" * (10 if n < 6 else 20), "completion": label}
        for n, label in enumerate(labels)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    part = json.loads(tunesmith("data", "stats", "rows.jsonl", "--json").stdout)["parts"]["train"]
    assert part["characters"]["user"] == {
        "shortest": 10,
        "median": 15,
        "95 %": 20,
        "99 %": 20,
        "longest": 20,
    }
    assert part["labels"] == {"caf\u00e9": 6, "late fee": 6}


def test_stats_count_tool_calls_as_answers(tunesmith: Tunesmith, tmp_path: Path) -> None:
    def row(number: int) -> dict[str, Any]:
        arguments = json.dumps({"city": ["Rome", "Bonn"][number % 2]})
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"messages": [{"role": "user", "content": f"Weather {number}?"}, answer]}

    file = tmp_path / "calls.jsonl"
    file.write_text("".join(json.dumps(row(n)) + "\n" for n in range(12)))
    (part,) = json.loads(tunesmith("data", "stats", file, "--json").stdout)["parts"].values()
    assert part["labels"] == {'weather({"city": "Rome"})': 6, 'weather({"city": "Bonn"})': 6}


def test_stats_group_prompts_on_request(tunesmith: Tunesmith, tmp_path: Path) -> None:
    lines = [
        json.dumps({"prompt": f"{topic} {n}?", "completion": "yes"})
        for topic, count in (("Where is my parcel", 30), ("Who wins the tennis match", 10))
        for n in range(count)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    usual = json.loads(tunesmith("data", "stats", "rows.jsonl", "--json").stdout)
    assert "topics" not in usual["parts"]["train"]
    found = json.loads(tunesmith("data", "stats", "rows.jsonl", "--topics", "--json").stdout)
    topics = found["parts"]["train"]["topics"]
    tennis = [topic for topic in topics if "tennis" in topic["words"]]
    assert len(topics) == 4 and sum(topic["share"] for topic in tennis) == 0.25
    assert int(tennis[0]["example"].rpartition(":")[2]) > 30
    text = tunesmith("data", "stats", "rows.jsonl", "--topics").stdout
    assert "  topic: " in text and "match tennis" in text


def test_stats_count_good_and_bad_answers(tunesmith: Tunesmith, tmp_path: Path) -> None:
    lines = [{"prompt": f"q{n}", "completion": "a", "label": n % 3 > 0} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    done = tunesmith("data", "stats", "rows.jsonl", "--json")
    part = json.loads(done.stdout)["parts"]["train"]
    assert part["labeled_answers"] == {"good": 6, "bad": 3}
    text = tunesmith("data", "stats", "rows.jsonl").stdout
    assert "labeled answers: 6 good, 3 bad" in text


def test_tokens_of_an_answer_with_a_label(tmp_path: Path) -> None:
    row = UnpairedPreference(
        source="f:1", prompt=(Message("user", "why"),), completion="so", label=False
    )
    (tokenized,) = create_tokenize(plan_of(save_tiny_model(tmp_path / "tiny")))(row)
    assert "".join(text for text, is_trained in tokenized.runs if is_trained).startswith("so")


def plan_of(model: Path, trains_on: tuple[str, ...] = (), **options: Any) -> Any:
    technique = SimpleNamespace(
        config=FullOptions(**options), offer=SimpleNamespace(trains_on=frozenset(trains_on))
    )
    return SimpleNamespace(technique=technique, found_model=SimpleNamespace(fetch=lambda: model))


def test_tokens_are_those_of_the_options(tmp_path: Path) -> None:
    """Variables of the chat template, its date, and prompts that are cut to fit."""
    shown = "{{ mode }} {{ strftime_now('%Y') }} "
    model = save_tiny_model(tmp_path / "tiny", template=shown + CHATML)
    row = Completion(source="f:1", prompt="why " * 100, completion="so")
    kwargs = {"kwargs": {"mode": "X9"}, "today": "2031-05-06"}
    (whole,) = create_tokenize(plan_of(model, chat_template=kwargs))(row)
    assert "".join(text for text, _ in whole.runs).startswith("X9 2031 ")
    with pytest.raises(DataError, match="too long"):
        create_tokenize(plan_of(model, max_length=200))(row)
    (cut,) = create_tokenize(plan_of(model, max_length=200, truncate_prompts=True))(row)
    assert cut.tokens <= 200 and cut.trained_tokens


def test_tokens_are_limited_by_the_context_of_the_model_as_in_training(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny", changes={"max_position_embeddings": 64})
    row = Completion(source="f:1", prompt="why " * 100, completion="so")
    with pytest.raises(DataError, match="64 are allowed"):
        create_tokenize(plan_of(model))(row)


@pytest.mark.parametrize("is_pair", [True, False])
def test_tokens_of_earlier_answers_are_a_prompt(tmp_path: Path, is_pair: bool) -> None:
    model = save_tiny_model(tmp_path / "tiny")
    turns = (Message("user", "why"), Message("assistant", "because"), Message("user", "and"))
    row = Preference(source="f:1", prompt=turns, chosen="so", rejected="no")
    labeled = UnpairedPreference(source="f:1", prompt=turns, completion="so", label=True)
    found = create_tokenize(plan_of(model, ("rejected",)))(row if is_pair else labeled)
    trained = ["".join(text for text, is_trained in one.runs if is_trained) for one in found]
    assert [text[:2] for text in trained] == (["so", "no"] if is_pair else ["so"])


def test_tokens_of_a_preference_are_those_of_both_answers(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny")
    row = Preference(
        source="f:1", prompt=(Message("user", "why"),), chosen="because", rejected="dunno"
    )
    for trains_on, answers in ((("rejected",), ["because", "dunno"]), ((), ["because"])):
        found = create_tokenize(plan_of(model, trains_on))(row)
        trained = ["".join(text for text, is_trained in one.runs if is_trained) for one in found]
        assert [text[: len(a)] for text, a in zip(trained, answers, strict=True)] == answers


def test_stats_compare_the_parts(tunesmith: Tunesmith, tmp_path: Path, rows: Path) -> None:
    rows.with_name("test.jsonl").write_text(ROWS)
    run_file = (tmp_path / "run.toml").read_text().replace('"lines"', '"jsonl"')
    run_file = run_file.replace('"data.tsv"', '"rows.jsonl"\ntest = "test.jsonl"')
    (tmp_path / "both.toml").write_text(run_file + "[baselines]\nuse = []\n")
    options = ("--set", "data.max_skipped=0.5")
    done = tunesmith("data", "stats", "both.toml", *options)
    assert done.exit_code == 0, done.output
    assert "2 rows are skipped: answer is empty" in done.stdout
    assert "rows that are also in an earlier split: 3" in done.stdout


# -------------------------------------------------------------------------- fix


def test_fix_repairs_what_keeps_its_meaning(tunesmith: Tunesmith, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": "x,]", "b": [1, 2,],}\r\n'
        b'{"b": 2}\n\n'
        b"{'a': None, 'b': True, 'c': 'it''s'}\n"
        b"{'a': 1, 'a': 2}\n"
        b'{"a": "cut off'
    )
    before = path.read_bytes()
    shown = tunesmith("data", "fix", "rows.jsonl")
    assert "can be fixed: removed trailing commas, line 1" in shown.stdout
    done = tunesmith("data", "fix", "rows.jsonl", "--out", "new.jsonl")
    assert done.exit_code == 3
    assert path.read_bytes() == before
    assert (tmp_path / "new.jsonl").read_bytes() == (
        b'{"a": "x,]", "b": [1, 2]}\r\n'
        b'{"b": 2}\n\n'
        b'{"a": null, "b": true, "c": "its"}\n'
        b"{'a': 1, 'a': 2}\n"
        b'{"a": "cut off'
    )
    assert "fixed: removed the byte-order mark" in done.stdout
    assert "fixed: converted from Python's repr to JSON, line 4" in done.stdout
    assert "line 6: not JSON (cut off" in done.stdout
    assert "correct or delete these lines yourself; new.jsonl contains them" in done.stderr
    report = json.loads(tunesmith("data", "fix", "rows.jsonl", "--json").stdout)
    assert [item["line"] for item in report["unusable"]] == [5, 6]
    assert tunesmith("data", "fix", "rows.jsonl", "--out", "new.jsonl").exit_code == 2
    done = tunesmith("data", "fix", "new.jsonl", "--out", "again.jsonl")
    assert done.exit_code == 3 and "fixed" not in done.stdout
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "new.jsonl").read_bytes()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_fix_converts_tables_too(tunesmith: Tunesmith, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "rows.csv").write_bytes("prompt,completion\rpé,c\r".encode(encoding))
    assert tunesmith("data", "fix", "rows.csv", "--out", "new.csv").exit_code == 0
    assert (tmp_path / "new.csv").read_text(encoding="utf-8") == "prompt,completion\npé,c\n"
    done = tunesmith("data", "fix", "new.csv", "--out", "again.csv")
    assert done.stdout == "nothing to fix\n"
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "new.csv").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        '{\n "prompt": "a",\n "completion": "b"\n}\n{\n "prompt": "c",\n "completion": "d"\n}\n',
        '[\n{"prompt": "a", "completion": "b"},\n{"prompt": "c", "completion": "d"}\n]\n',
    ],
)
def test_fix_knows_rows_that_are_no_lines(
    tunesmith: Tunesmith, tmp_path: Path, content: str
) -> None:
    """The data loader reads these layouts: their lines are no rows."""
    (tmp_path / "rows.jsonl").write_text(content)
    assert json.loads(tunesmith("data", "stats", "rows.jsonl", "--json").stdout)["skipped"] == {}
    (tmp_path / "marked.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    for name, done in (("rows", "nothing to fix"), ("marked", "removed the byte-order mark")):
        fixed = tunesmith("data", "fix", f"{name}.jsonl", "--out", f"new-{name}.jsonl")
        assert fixed.exit_code == 0 and done in fixed.stdout, fixed.output
        assert (tmp_path / f"new-{name}.jsonl").read_text() == content


def test_fix_leaves_a_clean_file_as_it_is(tunesmith: Tunesmith, tmp_path: Path) -> None:
    data = b'{"a": "\xc3\xa9 \\u00e9",  "b": 1.50}\r\n\n{"c": null}'
    (tmp_path / "rows.jsonl").write_bytes(data)
    done = tunesmith("data", "fix", "rows.jsonl", "--out", "new.jsonl")
    assert (done.exit_code, done.stdout) == (0, "nothing to fix\n")
    assert (tmp_path / "new.jsonl").read_bytes() == data
    (tmp_path / "rows.gz").write_bytes(gzip.compress(data))
    assert "decompress or convert the file first" in tunesmith("data", "fix", "rows.gz").stderr
    assert "cannot read the file" in tunesmith("data", "fix", "missing").stderr


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from([json.dumps, repr]))
@settings(max_examples=150, deadline=None)
def test_repairs_keep_the_meaning_of_every_row(row: dict[str, object], write: object) -> None:
    assert callable(write)
    text = str(write(row)).replace("\n", " ")
    data = text.encode("utf-8", "surrogatepass")
    fixer = Fixer()
    fixed = b"".join(fixer.json_lines(data))
    again = Fixer()
    assert b"".join(again.json_lines(fixed)) == fixed and not again.fixes
    if fixer.unusable:
        assert fixed == data
    else:
        assert parse_row(fixed) == row
    if write is json.dumps:
        assert fixed == data


def test_data_fix_converts_an_encoding(tunesmith: Tunesmith, tmp_path: Path) -> None:
    (tmp_path / "de.csv").write_text("prompt,completion\nWärme,ja\n", encoding="cp1252")
    found = tunesmith("data", "fix", "de.csv")
    assert found.exit_code == 3
    assert "line 2: not UTF-8" in found.stdout and "--encoding cp1252" in found.stderr
    done = tunesmith("data", "fix", "de.csv", "--encoding", "Windows-1252", "--out", "new.csv")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new.csv").read_text(encoding="utf-8") == "prompt,completion\nWärme,ja\n"
    wrong = tunesmith("data", "fix", "de.csv", "--encoding", "ascii")
    assert wrong.exit_code == 2 and "de.csv:2: byte 0xe4" in wrong.stderr


def test_a_data_file_needs_no_mapping_where_columns_can_be_guessed(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    (tmp_path / "de.csv").write_text("Frage,Wort\nWo?,hier\n", encoding="utf-8")
    assert "assistant hier" in tunesmith("data", "show", "de.csv").stdout


# ------------------------------------------------------------------- fix --mask


def test_mask_replaces_personal_data_in_the_texts_only(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    rows = [
        {"prompt": "ann@mail.org\n555-123-4567", "completion": "to ann@mail.org", "id": 4111},
        {"prompt": "Grüße", "completion": '{"email": "a@b.de", "dob": "1980-02-03"}'},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    (tmp_path / "rows.json").write_text(f"[{text.strip().replace(chr(10), ',')}]")
    done = tunesmith("data", "fix", "rows.jsonl", "--mask", "--out", "new.jsonl")
    assert done.exit_code == 0
    assert "masked: 3 × [EMAIL]" in done.output and "mail.org" not in done.output
    first, second = map(json.loads, (tmp_path / "new.jsonl").read_text().splitlines())
    assert first == {"prompt": "[EMAIL]\n[PHONE]", "completion": "to [EMAIL]", "id": 4111}
    assert second["completion"] == '{"email": "[EMAIL]", "dob": "[DATE OF BIRTH]"}'
    assert "Gr\\u00fc\\u00dfe" in (tmp_path / "new.jsonl").read_text(), "kept as it was written"
    report = json.loads(tunesmith("data", "fix", "rows.json", "--mask", "--json").stdout)
    assert report["masked"] == {"EMAIL": 3, "PHONE": 1, "DATE OF BIRTH": 1}
    again = tunesmith("data", "fix", "new.jsonl", "--mask")
    assert "no personal data of a known kind" in again.output


def test_mask_reads_csv_with_line_breaks(tunesmith: Tunesmith, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('q,a\n"hi, a@b.de\ncall",ok a@b.de\nx,"c@d.de, a@b.de"\n')
    assert tunesmith("data", "fix", "rows.csv", "--mask", "--out", "new.csv").exit_code == 0
    assert (tmp_path / "new.csv").read_text() == (
        'q,a\n"hi, [EMAIL]\ncall",ok [EMAIL]\nx,"[EMAIL 1], [EMAIL 2]"\n'
    )


# -------------------------------------------------------- a data file or a run file

COMMANDS = {
    "check": (),
    "stats": (),
    "show": (),
    "fix": (),
    "split": ("--out", "out"),
    "select": ("--rows", "3", "--out", "out.jsonl"),
    "canaries": ("--out", "out.jsonl", "--secrets", "secrets.json"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["rows.csv", "run.toml"])
def test_every_command_reads_data_files_and_run_files_with_the_same_options(
    tunesmith: Tunesmith, tmp_path: Path, command: str, name: str
) -> None:
    words = ["Grüße", "Frage", "Haus", "Baum", "Licht", "Meer", "Wolke", "Stein"]
    lines = [f"{a} {b} für {a},{b}{n}\n" for n, a in enumerate(words) for b in words]
    (tmp_path / "old.csv").write_text("wort,folge\n" + "".join(lines), encoding="cp1252")
    (tmp_path / "rows.csv").write_text("prompt,completion\n" + "".join(lines), encoding="utf-8")
    save_tiny_model(tmp_path / "model")
    (tmp_path / "run.toml").write_text(
        '[model]\nbase = "model"\n[data]\nuse = "table"\ntrain = "old.csv"\n'
        '[technique]\nuse = "lora"\n'
    )
    source = name if name == "run.toml" else "old.csv"
    options = ["--encoding", "cp1252", "--prompt", "folge", "--completion", "wort"]
    done = tunesmith("data", command, source, *options, *COMMANDS[command])
    assert done.exit_code == 0, done.output
    if command == "show":
        assert "| assistant Grüße Frage für Grüße" in done.output
    if command in ("select", "split", "canaries"):
        written = tmp_path / "out.jsonl" if command != "split" else tmp_path / "out/train.jsonl"
        assert "für" in written.read_text(encoding="utf-8")


def test_set_takes_keys_of_data_with_a_data_file(tunesmith: Tunesmith, rows: Path) -> None:
    kept = tunesmith("data", "stats", "rows.jsonl", "--set", "data.max_row_bytes=1000")
    assert kept.exit_code == 0, kept.output
    refused = tunesmith("data", "stats", "rows.jsonl", "--set", "technique.rank=3")
    assert refused.exit_code == 2 and "rows.jsonl is not a run file" in refused.stderr


def test_fix_needs_one_training_file(tunesmith: Tunesmith, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(ROWS)
    (tmp_path / "run.toml").write_text(
        '[model]\nbase = "model"\n[data]\nuse = "jsonl"\ntrain = ["a.jsonl", "b.jsonl"]\n'
        '[technique]\nuse = "lora"\n'
    )
    refused = tunesmith("data", "fix", "run.toml")
    assert refused.exit_code == 2 and "needs exactly one training file" in refused.stderr
