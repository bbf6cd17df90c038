"""The loader against malformed data: every row is used unchanged, or skipped with its cause."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from loading import load_both_ways

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message
from tunesmith.text import one_line
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions

GOOD = b'{"prompt": "p", "completion": "c"}'
CHAT = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'


def load(path: Path | str, **options: Any) -> Dataset:
    return load_both_ways(JSONL.build(JsonlOptions(train=str(path), **options)))


def load_bytes(folder: Path, data: bytes, **options: Any) -> Dataset:
    path = folder / "data.jsonl"
    path.write_bytes(data)
    return load(path, **options)


def chat(*turns: tuple[str, object]) -> bytes:
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}).encode()


def pair(**changes: object) -> bytes:
    return json.dumps({"prompt": "p", "chosen": "good", "rejected": "bad", **changes}).encode()


def row(**changes: object) -> bytes:
    return json.dumps({"prompt": "p", "completion": "c", **changes}).encode()


UNUSABLE_ROWS = {
    "invalid UTF-8": (b'{"prompt": "caf\xe9", "completion": "c"}', "not UTF-8"),
    "cut off": (b'{"prompt": "p", "comple', "not JSON"),
    "garbage": (b"%%%%", "not JSON"),
    "trailing comma": (b'{"prompt": "p", "completion": "c",}', "not JSON"),
    "python repr": (b"{'prompt': 'p', 'completion': 'c'}", "not JSON"),
    "two values": (GOOD + GOOD, "not JSON"),
    "nan": (b'{"prompt": NaN, "completion": "c"}', "`prompt` is a number, not text"),
    "scalar": (b"7", "row is a number, not an object"),
    "string": (b'"text"', "row is text, not an object"),
    "null row": (b"null", "row is null, not an object"),
    "array row": (b"[1]", "row is a list, not an object"),
    "empty row": (b"{}", "row is empty"),
    "wrong key": (b'{"promt": "p", "completion": "c"}', "has no `prompt`"),
    "null field": (row(completion=None), "`completion` is null"),
    "number field": (row(completion=3), "`completion` is a number, not text"),
    "bool field": (row(completion=True), "`completion` is true or false, not text"),
    "object field": (row(completion={"a": 1}), "`completion` is an object, not text"),
    "raw NUL": (b'{"prompt": "a\0b", "completion": "c"}', "`prompt` contains a NUL character"),
    "escaped NUL": (row(prompt="a\0b"), "`prompt` contains a NUL character"),
    "high surrogate": (
        b'{"prompt": "\\ud83d", "completion": "c"}',
        "`prompt` contains half of a surrogate pair",
    ),
    "low surrogate": (
        b'{"prompt": "p", "completion": "\\ude00!"}',
        "`completion` contains half of a surrogate pair",
    ),
    "encoded surrogate": (b'{"prompt": "\xed\xa0\xbd", "completion": "c"}', "not UTF-8"),
    "depth 33": (row(x=json.loads("[" * 32 + "]" * 32)), "row is nested deeper than 32 levels"),
    "depth 1,000": (
        b'{"prompt": "p", "x": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
        "row is nested deeper than 32 levels",
    ),
    "depth 100,000": (b'{"x": ' + b"[" * 100_000, "row is nested deeper than 32 levels"),
    "same key twice": (
        b'{"prompt": "p", "prompt": "q", "completion": "c"}',
        "an object has the same key twice",
    ),
    "5,000 digits": (
        b'{"prompt": "p", "x": ' + b"9" * 5_000 + b"}",
        "a number has thousands of digits",
    ),
    "20,000 keys": (
        json.dumps({str(n): n for n in range(20_000)}).encode(),
        "an object has more than 256 keys",
    ),
    "empty answer": (row(completion=""), "answer is empty"),
    "blank answer": (row(completion=" \n\t"), "answer is empty"),
    "empty prompt": (row(prompt=""), "prompt is empty"),
    "label that is neither": (row(label=2), "`label` is neither true nor false"),
}


@pytest.mark.parametrize("bad, cause", UNUSABLE_ROWS.values(), ids=UNUSABLE_ROWS)
def test_an_unusable_row_is_skipped_and_the_others_are_used(
    tmp_path: Path, bad: bytes, cause: str
) -> None:
    dataset = load_bytes(tmp_path, b"\n".join([GOOD, bad, GOOD]), max_skipped=0.5)
    assert [record.source[-2:] for record in dataset.train] == [":1", ":3"]
    assert [(x.where[-2:], x.cause) for x in dataset.skipped] == [(":2", cause)]
    detail = dataset.skipped[0].detail
    assert len(detail) <= 80
    assert detail == one_line(detail)


UNUSABLE_CHATS = {
    "empty": (chat(), "conversation is empty"),
    "no list": (row(messages="hello")[:-1] + b"}", "`messages` is text, not a list of messages"),
    "message no object": (b'{"messages": ["hi"]}', "a message is text, not an object"),
    "null content": (
        chat(("user", "q"), ("assistant", None)),
        "the content is null, not text",
    ),
    "image part": (
        chat(("user", [{"type": "image", "url": "x"}]), ("assistant", "a")),
        "the content has a part that is not text",
    ),
    "assistant first": (chat(("assistant", "a")), "conversation starts with the assistant"),
    "two users": (
        chat(("user", "q"), ("user", "q"), ("assistant", "a")),
        "two user turns in a row",
    ),
    "two assistants": (
        chat(("user", "q"), ("assistant", "a"), ("assistant", "a")),
        "two assistant turns in a row",
    ),
    "late system": (
        chat(("user", "q"), ("system", "s"), ("assistant", "a")),
        "a system message is not at the start",
    ),
    "tool without a call": (
        chat(("user", "q"), ("tool", "t"), ("assistant", "a")),
        "a tool turn has no call by the assistant before it",
    ),
    "user after tool": (
        chat(("user", "q"), ("assistant", "a"), ("tool", "t"), ("user", "q"), ("assistant", "a")),
        "a user turn directly follows a tool turn",
    ),
    "ends with the user": (
        chat(("user", "q")),
        'the last message must have the role "assistant"',
    ),
    "system alone": (
        chat(("system", "s")),
        'the last message must have the role "assistant"',
    ),
    "unknown role": (chat(("wizard", "q"), ("assistant", "a")), "a message has an unknown role"),
    "empty answer": (chat(("user", "q"), ("assistant", "")), "answer is empty"),
    "empty question": (chat(("user", ""), ("assistant", "a")), "prompt is empty"),
    "NUL": (chat(("user", "\0"), ("assistant", "a")), "content contains a NUL character"),
    "tool call": (
        b'{"messages": [{"role": "user", "content": "q"},'
        b' {"role": "assistant", "content": "a", "tool_calls": [{"id": 1}]}]}',
        "`tool_calls` has a call without the tool's name",
    ),
    "weight": (
        b'{"messages": [{"role": "user", "content": "q"},'
        b' {"role": "assistant", "content": "a", "weight": 0}]}',
        "no answer in the conversation is trained on",
    ),
}


@pytest.mark.parametrize("bad, cause", UNUSABLE_CHATS.values(), ids=UNUSABLE_CHATS)
def test_an_unusable_conversation_is_skipped(tmp_path: Path, bad: bytes, cause: str) -> None:
    dataset = load_bytes(tmp_path, b"\n".join([CHAT, bad, CHAT]), max_skipped=0.5)
    assert [(x.where[-2:], x.cause) for x in dataset.skipped] == [(":2", cause)]
    assert len(dataset.train) == 2


UNUSABLE_PAIRS = {
    "same": (pair(rejected="good"), "the chosen and the rejected answer are the same"),
    "missing side": (pair(rejected=None), "`rejected` is null"),
    "empty side": (pair(rejected=" "), "answer is empty"),
    "no prompt": (pair(prompt=None), "has no prompt"),
    "other context": (
        pair(
            prompt=None,
            chosen=[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            rejected=[{"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}],
        ),
        "`chosen` and `rejected` differ before the last answer",
    ),
}


@pytest.mark.parametrize("bad, cause", UNUSABLE_PAIRS.values(), ids=UNUSABLE_PAIRS)
def test_an_unusable_pair_is_skipped(tmp_path: Path, bad: bytes, cause: str) -> None:
    dataset = load_bytes(tmp_path, b"\n".join([pair(), bad, pair()]), max_skipped=0.5)
    assert [(x.where[-2:], x.cause) for x in dataset.skipped] == [(":2", cause)]


UNUSABLE_FILES = {
    "empty": (b"", "is empty"),
    "newlines": (b"\n\r\n\n", "has no rows"),
    "byte-order mark alone": (b"\xef\xbb\xbf", "has no rows"),
    "empty array": (b"[]", "has no rows"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "looks like UTF-16"),
    "UTF-16 without a mark": (GOOD.decode().encode("utf-16-be"), "looks like UTF-16"),
    "zeros": (bytes(1_000), "looks like UTF-16"),
    "CR line ends": (GOOD + b"\r" + GOOD, "bare carriage returns"),
    "zip": (b"PK\x03\x04....", "is a zip archive"),
    "Parquet": (b"PAR1....PAR1", "is a Parquet file"),
    "cut gzip": (gzip.compress(GOOD * 9)[:-12], "cannot be unpacked"),
    "gzip garbage": (b"\x1f\x8b" + b"x" * 100, "cannot be unpacked"),
    "gzip twice": (gzip.compress(gzip.compress(GOOD)), "gzip inside gzip"),
    "open array": (b"[" + GOOD + b"," + GOOD, "the array is not closed"),
    "brackets of an array": (b"[" + GOOD + b",\n{[}," + GOOD + b"]", ":2: the array is not closed"),
    "rows of arrays": (b"[" + GOOD + b"]\n[" + GOOD + b"]\n", "text after the end"),
    "open object": (b'{\n"prompt": "p",\n', "an object is not closed"),
    "unknown columns": (b'{"a": 1}\n{"a": 2}', "no known format has the columns `a`"),
    "all null": (b'{"prompt": null, "completion": "c"}', "no known format"),
    "one bad row": (b"%%%", "1 of 1 rows cannot be used"),
}


@pytest.mark.parametrize("data, message", UNUSABLE_FILES.values(), ids=UNUSABLE_FILES)
def test_an_unusable_file_stops_the_run(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl") as caught:
        load_bytes(tmp_path, data)
    assert message in caught.value.message


ACCEPTED = {
    "byte-order mark": b"\xef\xbb\xbf" + GOOD + b"\n" + GOOD,
    "CRLF": GOOD + b"\r\n" + GOOD + b"\r\n",
    "blank lines": b"\n" + GOOD + b"\n\n  \n" + GOOD + b"\n\n",
    "no last newline": GOOD + b"\n" + GOOD,
    "array": b"[" + GOOD + b", " + GOOD + b"]",
    "array over lines": b"[\n  " + GOOD + b",\n  " + GOOD + b"\n]\n",
    "pretty": b"\n".join(json.dumps(json.loads(x), indent=2).encode() for x in (GOOD, GOOD)),
    "gzip": gzip.compress(GOOD + b"\n" + GOOD),
    "huge integer elsewhere": row(id=2**80) + b"\n" + GOOD,
    "type change elsewhere": row(id=1) + b"\n" + row(id="x2"),
    "NaN elsewhere": b'{"prompt": "p", "completion": "c", "score": NaN}\n' + GOOD,
    "reserved names": row(labels=[1], input_ids=[2]) + b"\n" + GOOD,
    "null elsewhere": row(text=None, messages=None) + b"\n" + GOOD,
    "deep but allowed": row(x=json.loads("[" * 31 + "]" * 31)) + b"\n" + GOOD,
    "brackets in text": row(x="[" * 500) + b"\n" + GOOD,
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_unusual_but_valid_files_are_read(tmp_path: Path, data: bytes) -> None:
    dataset = load_bytes(tmp_path, data)
    assert [(r.prompt, r.completion) for r in dataset.train if isinstance(r, Completion)] == [
        ("p", "c"),
        ("p", "c"),
    ]
    assert not dataset.skipped


@pytest.mark.parametrize(
    "text",
    [
        "\x1b]0;title\x07\x1b[31mred\x1b[0m",
        "[bold]markup[/bold] <script>alert(1)</script>",
        "\u202eright to left\u200b, tag \U000e0041",
        "2024-05-01",
        "=cmd|' /C calc'!A0",
        "e\u0301 composed or not \u00e9",
        " leading and trailing \n",
        "<|im_end|>",
        "😀",
    ],
)
def test_text_is_never_changed(tmp_path: Path, text: str) -> None:
    escaped = json.dumps({"prompt": text, "completion": text}).encode()
    plain = json.dumps({"prompt": text, "completion": text}, ensure_ascii=False).encode()
    for record in load_bytes(tmp_path, escaped + b"\n" + plain).train:
        assert isinstance(record, Completion)
        assert (record.prompt, record.completion) == (text, text)


def test_line_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    layouts = {
        "lines": (GOOD + b"\n\n%%\r\n" + GOOD, [1, 4], [3]),
        "array": (b"\n[\n" + GOOD + b",\n{\n},\n" + GOOD + b"\n]", [3, 6], [4]),
        "pretty": (b'\n{\n"prompt":"p","completion":"c"}\n\n{"a":\n%}\n' + GOOD, [2, 7], [5]),
    }
    for name, (data, used, skipped) in layouts.items():
        dataset = load_bytes(tmp_path, data, max_skipped=1)
        assert [int(r.source.rpartition(":")[2]) for r in dataset.train] == used, name
        assert [int(x.where.rpartition(":")[2]) for x in dataset.skipped] == skipped, name


def test_rows_that_share_a_line_are_named_by_their_number(tmp_path: Path) -> None:
    bad = b'{"prompt": "p"}'
    # The layout, and for each of its rows what follows the file's name; the second row is bad.
    layouts = (
        (b"[" + b", ".join([GOOD, bad, GOOD]) + b"]", ", row 1", ", row 2", ", row 3"),
        (b"[\n" + b",\n".join([GOOD, bad, GOOD]) + b"\n]", ":2", ":3", ":4"),
        (b"[" + GOOD + b",\n" + bad + b"," + GOOD + b"]", ":1", ", row 2", ", row 3"),
        (b"{\n" + GOOD[1:] + bad + GOOD, ":1", ", row 2", ", row 3"),
        (b"[{\n" + GOOD[1:] + b", {\n" + bad[1:] + b", " + GOOD + b"]", ":1", ":2", ":3"),
    )
    for data, *expected in layouts:
        dataset = load_bytes(tmp_path, data, max_skipped=1)
        named = [*(record.source for record in dataset.train), dataset.skipped[0].where]
        places = [name.removeprefix(str(tmp_path / "data.jsonl")) for name in named]
        assert places == [expected[0], expected[2], expected[1]], data


def test_too_many_unusable_rows_are_reported_by_cause_with_the_first_of_each(
    tmp_path: Path,
) -> None:
    lines = [GOOD] * 97 + [row(completion=""), b"%%", row(completion="")]
    with pytest.raises(DataError) as caught:
        load_bytes(tmp_path, b"\n".join(lines))
    message = caught.value.message
    assert "3 of 100 rows cannot be used, more than max_skipped = 0.01 allows" in message
    assert "2 × answer is empty, first at " in message
    assert "data.jsonl:98" in message
    assert "1 × not JSON, first at " in message
    assert caught.value.hint
    assert "max_skipped" in caught.value.hint


def test_up_to_the_allowed_share_may_be_unusable(tmp_path: Path) -> None:
    assert len(load_bytes(tmp_path, b"\n".join([GOOD] * 99 + [b"%%"])).skipped) == 1
    with pytest.raises(DataError, match="2 of 100 rows"):
        load_bytes(tmp_path, b"\n".join([GOOD] * 98 + [b"%%"] * 2))
    with pytest.raises(DataError, match="1 of 100 rows"):
        load_bytes(tmp_path, b"\n".join([GOOD] * 99 + [b"%%"]), max_skipped=0)


def test_no_usable_row_is_an_error_for_any_max_skipped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 of 2 rows"):
        load_bytes(tmp_path, b"%%\n%%", max_skipped=1)


def test_windows_1252_file_is_recognized(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not UTF-8") as caught:
        load_bytes(tmp_path, '{"prompt": "café", "completion": "c"}'.encode("cp1252"))
    assert "0xe9, which is é in Windows-1252" in caught.value.message
    assert 'encoding = "cp1252"' in (caught.value.hint or "")
    assert (
        load_bytes(
            tmp_path,
            '{"prompt": "café", "completion": "c"}'.encode("cp1252"),
            encoding="Windows-1252",
        )
        .train[0]
        .prompt
        == "café"
    )  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "bad, reason",
    [
        (UNUSABLE_ROWS["trailing comma"][0], "trailing comma"),
        (UNUSABLE_ROWS["python repr"][0], "written by Python's repr"),
        (b'{"prompt": None}', "written by Python's repr"),
        (UNUSABLE_ROWS["cut off"][0], "cut off"),
        (b'{"prompt": "p"', "cut off"),
    ],
)
def test_detail_explains_why_a_row_is_not_json(tmp_path: Path, bad: bytes, reason: str) -> None:
    dataset = load_bytes(tmp_path, GOOD + b"\n" + bad, max_skipped=0.5)
    assert reason in dataset.skipped[0].detail


def test_misspelled_column_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_bytes(tmp_path, b'{"promt": "p", "completion": "c"}')
    assert caught.value.hint == "did you mean `prompt`?"
    dataset = load_bytes(tmp_path, GOOD + b'\n{"promt": "p"}', max_skipped=0.5)
    assert dataset.skipped[0].detail == "did you mean `promt`?"


def test_a_row_of_64_megabytes_is_skipped_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'\n{"prompt": "')
        for _ in range(64):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + GOOD)
    dataset = load(path, max_skipped=0.5)
    assert [record.source[-2:] for record in dataset.train] == [":1", ":3"]
    assert dataset.skipped[0].cause == "row larger than 8,000,000 bytes"


def test_row_of_exactly_max_row_bytes_is_read(tmp_path: Path) -> None:
    largest = row(completion="c" * 2_000)
    for ending in (b"\n", b"\r\n", b""):
        data = largest + ending
        assert len(load_bytes(tmp_path, data, max_row_bytes=len(largest)).train) == 1
        with pytest.raises(DataError, match="row larger than"):
            load_bytes(tmp_path, data, max_row_bytes=len(largest) - 1)


def test_gzip_bomb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes"):
        load_bytes(tmp_path, gzip.compress(bytes(b" " * 5_000_000)), max_unpacked_bytes=1_000_000)


def test_hostile_strings_take_linear_time(tmp_path: Path) -> None:
    hostile = [b'{"x": "' + b'\\"' * 400_000, b'"' * 400_001, b"{" + b'"\\' * 400_000]
    started = time.perf_counter()
    load_bytes(tmp_path, b"\n".join([GOOD, *hostile]), max_skipped=1)
    for data in hostile:
        with pytest.raises(DataError):
            load_bytes(tmp_path, b"[" + data)
    assert time.perf_counter() - started < 10


def test_additional_columns_do_not_make_new_formats(tmp_path: Path) -> None:
    rows = [row(**{f"extra{n}": n}) for n in range(3_000)]
    dataset = load_bytes(tmp_path, b"\n".join(rows))
    assert len(dataset.train) == 3_000
    (warning,) = dataset.warnings
    assert "not used: extra0, extra1" in warning
    assert len(warning) < 300


def test_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tunesmith_data.json_rows as reader

    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + b"\n" + GOOD)
    parse = reader.parse_row

    def parse_and_append(raw: bytes) -> dict[str, Any]:
        with path.open("ab") as file:
            file.write(b"\n")
        return parse(raw)

    monkeypatch.setattr(reader, "parse_row", parse_and_append)
    with pytest.raises(DataError, match="changed while it was being read"):
        load(path)


def test_file_that_is_replaced_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tunesmith_data.json_rows as reader

    path, other = tmp_path / "data.jsonl", tmp_path / "other.jsonl"
    path.write_bytes(GOOD)
    parse = reader.parse_row

    def parse_and_replace(raw: bytes) -> dict[str, Any]:
        other.write_bytes(GOOD)
        os.utime(other, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
        other.replace(path)
        return parse(raw)

    monkeypatch.setattr(reader, "parse_row", parse_and_replace)
    with pytest.raises(DataError, match="changed while it was being read"):
        load(path)


def test_csv_file_is_refused_with_a_hint_at_the_table_loader(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("prompt,completion\np,c\n")
    with pytest.raises(DataError, match="is not JSON") as caught:
        load(path)
    assert 'use = "table"' in (caught.value.hint or "")


def test_details_contain_no_secrets(tmp_path: Path) -> None:
    secret = "hf_" + "A1b2" * 8
    rows = [
        GOOD,
        row(completion=[secret]),
        f"{{'key': '{secret}'}}".encode(),
        f'"{secret}"'.encode(),
    ]
    dataset = load_bytes(tmp_path, b"\n".join(rows), max_skipped=1)
    assert len(dataset.skipped) == 3
    for item in dataset.skipped:
        assert "A1b2A1b2" not in item.detail


def test_loading_is_deterministic(tmp_path: Path) -> None:
    data = b"\n".join([GOOD, b"%%", GOOD])
    assert load_bytes(tmp_path, data, max_skipped=1) == load_bytes(tmp_path, data, max_skipped=1)


def test_conversation_is_read_turn_by_turn(tmp_path: Path) -> None:
    data = chat(
        ("system", "s"),
        ("user", [{"type": "text", "text": "q"}, {"type": "text", "text": "1 "}]),
        ("assistant", "calls"),
        ("tool", "result"),
        ("assistant", "a"),
    )
    (record,) = load_bytes(tmp_path, data).train
    assert isinstance(record, Chat)
    assert record.messages == (
        Message("system", "s"),
        Message("user", "q1 "),
        Message("assistant", "calls"),
        Message("tool", "result"),
        Message("assistant", "a"),
    )
