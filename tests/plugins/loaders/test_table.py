"""The table loader keeps every value as text and accounts for every line."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loading import load_both_ways
from pydantic import ValidationError

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_plugins.loaders.table.offer import TABLE, TableOptions

HEADER = b"prompt,completion\n"
NOT_BLANK = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(lambda text: not text.isspace())


def load(folder: Path, data: bytes, **options: Any) -> Dataset:
    path = folder / "data.csv"
    path.write_bytes(data)
    return load_both_ways(TABLE.build(TableOptions(train=str(path), **options)))


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    return [(r.prompt, r.completion) for r in dataset.train if isinstance(r, Completion)]


@pytest.mark.parametrize(
    "data",
    [
        b"prompt,completion\np,c\nq,d\n",
        b"\xef\xbb\xbfprompt,completion\r\np,c\r\nq,d",
        b"prompt\tcompletion\np\tc\nq\td\n",
        b"prompt;completion\np;c\nq;d\n",
        b'"prompt, or so"|prompt|completion\nx|p|c\n\ny|q|d\n',
        b",completion,prompt\n0,c,p\n1,d,q\n",
        b"prompt,completion\rp,c\rq,d\r",
        b"\xef\xbb\xbfsep=;\r\nprompt;completion\r\np;c\r\nq;d\r\n",
        gzip.compress(b"prompt,completion\np,c\nq,d\n"),
    ],
    ids=["comma", "bom and crlf", "tab", "semicolon", "bar", "index column", "cr", "sep", "gzip"],
)
def test_common_dialects(tmp_path: Path, data: bytes) -> None:
    dataset = load(tmp_path, data)
    assert pairs(dataset) == [("p", "c"), ("q", "d")]
    assert not dataset.skipped


def test_values_are_always_text(tmp_path: Path) -> None:
    dataset = load(tmp_path, HEADER + b"2024-05-01,007\n1e5,null\n=cmd|'/C calc'!A0,True\n")
    assert pairs(dataset) == [
        ("2024-05-01", "007"),
        ("1e5", "null"),
        ("=cmd|'/C calc'!A0", "True"),
    ]


def test_quotes_newlines_and_line_numbers(tmp_path: Path) -> None:
    dataset = load(tmp_path, HEADER + b'"say ""hi""\nto me",c\n5" pipe,d\n\nq,e\n')
    assert pairs(dataset) == [('say "hi"\nto me', "c"), ('5" pipe', "d"), ("q", "e")]
    assert [r.source[-2:] for r in dataset.train] == [":2", ":4", ":6"]


@pytest.mark.parametrize(
    "bad, cause, lines",
    [
        (b"a,b,c", "a different number of fields than in the header", [3]),
        (b"a", "a different number of fields than in the header", [3]),
        (b'"a"b,c', "not CSV", [3]),
        (b'"a\nb\nc"d,c', "not CSV", [3, 4, 5]),
        (b"caf\xe9,c", "not UTF-8", [3]),
        (b"a\0b,c", "`prompt` contains a NUL character", [3]),
        (b"a,", "answer is empty", [3]),
        (b",c", "prompt is empty", [3]),
    ],
)
def test_an_unusable_row_is_skipped(
    tmp_path: Path, bad: bytes, cause: str, lines: list[int]
) -> None:
    dataset = load(tmp_path, HEADER + b"p,c\n" + bad + b"\nq,d\n", max_skipped=0.9)
    assert pairs(dataset) == [("p", "c"), ("q", "d")]
    assert [x.cause for x in dataset.skipped] == [cause] * len(lines)
    assert [int(x.where.rpartition(":")[2]) for x in dataset.skipped] == lines


def test_a_comma_in_the_header_of_another_separator_has_a_hint(tmp_path: Path) -> None:
    data = b"question, short;answer\nWhy, now?;1,5\nWhen, please?;2,5\n"
    with pytest.raises(DataError) as caught:
        load(tmp_path, data, columns={"prompt": "question, short", "completion": "answer"})
    assert "set `delimiter` in [data]" in str(caught.value.hint)
    columns = {"prompt": "question, short", "completion": "answer"}
    dataset = load(tmp_path, data, columns=columns, delimiter=";")
    assert pairs(dataset) == [("Why, now?", "1,5"), ("When, please?", "2,5")]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is empty"),
        (HEADER, "has no rows"),
        (b"\n\n", "no header line"),
        (b"a,a\nb,c\n", ":1: two columns are named `a`"),
        (b"sep=;\na;a\nb;c\n", ":2: two columns are named `a`"),
        (
            HEADER + b'p,c\nq,"d\n' + b"x,y\n" * 500,
            ":3: this line opens a quote that is never closed",
        ),
        (HEADER + b"p," + b"c" * 200_000, ":2: a field has more than 131,072 characters"),
        (b"color,shape\nred,round\n", "no known format has the columns `color`, `shape`"),
        ("prompt,completion\np,c\n".encode("utf-16"), "looks like UTF-16"),
    ],
)
def test_an_unusable_file_stops_the_run(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, data, max_skipped=0.5)
    assert message in caught.value.message


def test_names_of_columns_may_have_several_lines(tmp_path: Path) -> None:
    header = b'"prompt","completion","a note\nfor, or ""against""\nit",size 5" or 6\n'
    dataset = load(tmp_path, header + b'p,c,x,"y\nz"\nq,d,x,y\n')
    assert pairs(dataset) == [("p", "c"), ("q", "d")]
    assert [record.source.rpartition(":")[2] for record in dataset.train] == ["4", "6"]
    with pytest.raises(DataError, match="has the columns `a note`, `for us`"):
        load(tmp_path, b'a note,"for\nus"\nx,y\n')
    with pytest.raises(DataError, match="csv:1: this line opens a quote that is never closed"):
        load(tmp_path, b'prompt,"completion\n' + b"x,y\n" * 50_000)


def test_line_longer_than_max_row_bytes_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line is longer than max_row_bytes = 1,000"):
        load(tmp_path, HEADER + b"p," + b"c" * 2_000, max_row_bytes=1_000)


def test_columns_and_slices_are_mapped(tmp_path: Path) -> None:
    data = b"text,category\nI lost my card,lost_card\n"
    dataset = load(
        tmp_path, data, columns={"prompt": "text", "completion": "category"}, slices=["category"]
    )
    assert pairs(dataset) == [("I lost my card", "lost_card")]
    assert dataset.train[0].slices == (("category", "lost_card"),)


def test_delimiter_option(tmp_path: Path) -> None:
    dataset = load(tmp_path, b"prompt:completion\na,b:c\n", delimiter=":")
    assert pairs(dataset) == [("a,b", "c")]
    for delimiter in ("", "::", "\n", '"'):
        with pytest.raises(ValidationError):
            TableOptions(train="x", delimiter=delimiter)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(NOT_BLANK, NOT_BLANK), min_size=1), delimiter=st.sampled_from(",;\t|")
)
def test_written_rows_are_read_unchanged(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([("prompt", "completion"), *rows])
    assert pairs(load(tmp_path, text.getvalue().encode(), max_skipped=0)) == rows
