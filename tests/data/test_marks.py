"""Marks in rows: every kind of record, every part of it, and nothing of it in the finding."""

from __future__ import annotations

import re

import pytest

from tunesmith.records import Chat, Completion, Message, Preference, Record, Text
from tunesmith_data.marks import find_marks

MARKS = {"a secret word": re.compile("xyzzy"), "a number": re.compile(r"\d")}
RECORDS: list[Record] = [
    Text(source="a:1", text="say xyzzy"),
    Completion(source="a:2", prompt="xyzzy?", completion="no"),
    Completion(source="a:3", prompt="what?", completion="xyzzy"),
    Chat(
        source="a:4",
        messages=(
            Message("system", "xyzzy"),
            Message("user", "hi"),
            Message("assistant", "hello"),
        ),
    ),
    Preference(source="a:5", prompt=(Message("user", "q"),), chosen="xyzzy", rejected="no"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_mark_is_found_in_any_part(record: Record) -> None:
    (finding,) = find_marks([record], MARKS, where="here", hint="do it")
    assert (finding.level, finding.where, finding.hint, finding.count) == (
        "warning",
        "here",
        "do it",
        1,
    )
    assert finding.message == "1 of 1 rows contains a secret word"
    assert finding.examples == (record.source,)


def test_clean_rows_have_no_finding() -> None:
    clean = [Completion(source="a:1", prompt="hi", completion="hello")]
    assert not [*find_marks(clean, MARKS, where="here", hint="")]
    assert not [*find_marks([], MARKS, where="here", hint="")]


def test_rows_are_counted_and_two_are_named() -> None:
    (finding,) = find_marks(RECORDS, MARKS, where="here", hint="")
    assert finding.message == "5 of 5 rows contain a secret word"
    assert finding.examples == ("a:1", "a:2")
