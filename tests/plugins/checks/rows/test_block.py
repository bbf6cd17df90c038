"""Rows that are searched together: none that may have a fault is missed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tunesmith.records import Chat, Completion, Message, Record
from tunesmith.text import SECRET_MARKS, redact
from tunesmith_plugins.checks.rows.block import BLOCK_CHARACTERS, Block, MarkFinder, read_blocks
from tunesmith_plugins.checks.rows.check import Tally
from tunesmith_plugins.checks.rows.detectors import Detector, Detectors
from tunesmith_plugins.checks.rows.row import fold_signs, read_row

FAULTS: tuple[tuple[str, ...], ...] = (("<", "INST]"), ("é", "\0"), ("sk-", "://", "earer"), ())


def block_of(*texts: str) -> Block:
    records = (
        Completion(source=f"r:{n}", prompt=text, completion="") for n, text in enumerate(texts)
    )
    return Block([row for record in records if (row := read_row(record)) is not None])


def test_rows_with_marks_are_found_at_every_place() -> None:
    source = random.Random(7)
    texts = ["".join(source.choices("abk /:-sITS", k=source.randrange(40))) for _ in range(300)]
    for n, text in enumerate(texts):
        mark = source.choice([mark for marks in FAULTS for mark in marks])
        place = source.choice((0, len(text), source.randrange(len(text) + 1)))
        texts[n] = text if n % 3 else text[:place] + mark + text[place:]
    found = [{row.prompt for row in rows} for rows in MarkFinder(FAULTS).find(block_of(*texts))]
    for marks, rows in zip(FAULTS, found, strict=True):
        assert {text for text in texts if any(mark in text for mark in marks)} <= rows
    assert max(map(len, found)) < len(texts) / 2 and not found[-1]


@pytest.mark.parametrize("place", [BLOCK_CHARACTERS + n for n in range(-5, 4)])
def test_a_mark_in_a_row_of_many_characters(place: int) -> None:
    (found,) = MarkFinder([["INST]"]]).find(block_of("é" * place + "INST]" + "a" * 9, "b"))
    assert [len(row.prompt) for row in found] == [place + 14]


def test_a_mark_must_be_one_character_or_three_of_ascii() -> None:
    for mark in ("ab", "né!", ""):
        with pytest.raises(ValueError, match="a mark must be"):
            MarkFinder([[mark]])


def test_rows_with_a_long_number() -> None:
    texts = ["12 34-56 (7", "123456", "1..2..3..4..5..6..7", "٣٤٥٦٧٨٩", "1\n2345678", "é 1234567"]
    found = block_of(*texts).with_long_number
    assert [row.prompt for row in found] == [texts[0], texts[2], texts[4], texts[5]]


def test_every_secret_has_a_mark() -> None:
    keys = ("hf_" + "aB3" * 8, "AKIA" + "Q7" * 8, "xoxb-" + "1" * 12, "https://u:pass@h/")
    for key in keys:
        assert redact(key) != key and any(mark in key for mark in SECRET_MARKS)


def test_detectors_look_at_rows_with_marks_or_at_those_they_select() -> None:
    table = (
        Detector("with a mark", lambda row: row.prompt, "", marks=("#",)),
        Detector("all", lambda row: row.prompt, ""),
        Detector("the first of a block", lambda row: row.prompt, "", select=lambda b: b.rows[:1]),
    )
    detectors = Detectors({"a": table[:1], "b": table[1:]})
    for texts in (["x", "#"], ["##", "y", "z"]):
        detectors.add(block_of(*texts))
    found = list(detectors.findings([]))
    assert [(f.where, f.count) for f in found] == [("data a", 2), ("data b", 5), ("data b", 2)]
    assert found[2].examples == ('r:0 "x"', 'r:0 "##"')


def test_blocks_have_all_rows_but_those_of_unknown_records() -> None:
    long = "é" * (BLOCK_CHARACTERS // 3)
    messages = (Message("user", long), Message("assistant", "a\u0301!"))
    records: Sequence[Record] = [
        Completion(source="r:1", prompt="Q!", completion="A, b"),
        Record(source="r:2"),
        *[Chat(source=f"r:{n}", messages=messages) for n in range(3, 8)],
    ]
    blocks = list(read_blocks(records, "validation"))
    assert [[row.number for row in block.rows] for block in blocks] == [[0, 2, 3, 4], [5, 6]]
    rows = [row for block in blocks for row in block.rows]
    assert (rows[0].part, rows[0].text_signs) == ("validation", b"q!ab")
    for row in rows:
        assert row.text_signs == fold_signs([row.text])[0]
        assert row.answer_signs == fold_signs([row.answer])[0]
        assert row.prompt_signs == fold_signs([row.prompt])[0]


def test_signs_of_many_texts() -> None:
    texts = ["A b", "“É” – x", ":-)", " ☺ ", "…", "e\u0301", "", "नमस्ते!", "\ud800x"]
    assert fold_signs(texts) == [fold_signs([text])[0] for text in texts]
    assert fold_signs(texts)[:6] == [
        b"ab",
        '"é"-x'.encode(),
        b":-)",
        "☺".encode(),
        b"...",
        "é".encode(),
    ]
    assert fold_signs(["3 + 2, is\u200b it?", "3 - 2"]) == [b"3+2isit", b"3-2"]
    assert Tally().examples == []
