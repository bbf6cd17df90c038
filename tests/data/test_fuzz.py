"""Any row is read back unchanged or skipped, and a damaged file is used or refused: many times."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from damage import mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed_files import CHAT, TWO, pair, parquet, row

from tunesmith.catalog import Catalog
from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.offers import DataLoaderOffer
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Completion
from tunesmith.text import one_line

pytestmark = pytest.mark.long
MUTATIONS = 1_000
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(st.characters(), max_size=12)
many = settings(
    max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog(find_plugins(Selection(allowed=frozenset())))


def load(catalog: Catalog, path: Path) -> Dataset:
    use = catalog.recognize([str(path)])
    if use is None:
        raise DataError(path.name, "no data loader recognizes this file")
    offer = catalog.find(DataLoaderOffer, use).offer
    limits = {"max_skipped": 1.0, "max_unpacked_bytes": 20_000_000}
    dataset = offer.build(offer.config(train=str(path), **limits)).load()
    for item in dataset.skipped:
        assert item.cause and item.where and item.detail == one_line(item.detail)
    return dataset


@many
@given(row=st.dictionaries(st.sampled_from(["prompt", "completion", "x"]) | TEXT, TEXT | VALUES))
def test_any_row_is_read_unchanged_or_skipped(
    tmp_path: Path, catalog: Catalog, row: dict[str, Any]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(TWO.decode() + "\n" + json.dumps(row))
    dataset = load(catalog, path)
    assert len(dataset.train) + len(dataset.skipped) == 3
    for record in dataset.train[2:]:
        assert isinstance(record, Completion)
        assert (record.prompt, record.completion) == (row["prompt"], row["completion"])


@many
@given(cells=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_table_is_read_unchanged_or_skipped(
    tmp_path: Path, catalog: Catalog, cells: list[tuple[str, str]]
) -> None:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([("prompt", "completion"), ("p", "c"), *cells])
    path = tmp_path / "rows.csv"
    path.write_bytes(file.getvalue().encode("utf-8", "surrogatepass"))
    dataset = load(catalog, path)
    found = [(r.prompt, r.completion) for r in dataset.train if isinstance(r, Completion)]
    usable = [pair for pair in cells if "\0" not in "".join(pair) and all(map(str.strip, pair))]
    assert set(found) <= {("p", "c"), *cells}
    assert len(found) + len(dataset.skipped) >= 1 + len(usable)


def arrow() -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"prompt": ["p"] * 40, "completion": ["c é"] * 40})
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=8)
    return bytes(sink.getvalue().to_pybytes())


LINES = b"".join(row(prompt=f"p{n} \u00e9", id=n) + b"\n" for n in range(20))
SEEDS: dict[str, tuple[str, bytes]] = {
    "lines": ("rows.jsonl", LINES),
    "raw text": ("rows.jsonl", '{"question": "naïve “q”", "answer": "日本語"}\n'.encode() * 6),
    "CRLF": ("rows.jsonl", LINES.replace(b"\n", b"\r\n")),
    "byte-order mark": ("rows.jsonl", b"\xef\xbb\xbf" + LINES),
    "chat": ("rows.jsonl", (CHAT + b"\n") * 6),
    "pairs": ("rows.jsonl", (pair(score=1.5) + b"\n") * 6),
    "text column": ("rows.jsonl", b'{"text": "t", "x": [[{"y": null}]]}\n' * 9),
    "array": ("rows.json", json.dumps([json.loads(row())] * 9).encode()),
    "array over lines": ("rows.json", json.dumps([json.loads(row())] * 9, indent=1).encode()),
    "pretty": ("rows.json", json.dumps(json.loads(row()), indent=2).encode() * 3),
    "nested": ("rows.jsonl", (row(x=json.loads("[" * 31 + "]" * 31)) + b"\n") * 2),
    "gzip": ("rows.jsonl.gz", gzip.compress(LINES)),
    "zstd": ("rows.jsonl.zst", zstandard.ZstdCompressor().compress(LINES)),
    "CSV": ("rows.csv", b'prompt,completion\n"a ""q""\nb",c\np,"d, e"\n' * 5),
    "TSV": ("rows.tsv", b"prompt\tcompletion\np\tc\n" * 9),
    "CSV with CR": ("rows.csv", b"prompt;completion\rp;c\rq;d\r" * 4),
    "Parquet": ("rows.parquet", parquet(60, "text")),
    "Arrow": ("rows.arrow", arrow()),
    "text": ("notes.md", "# Title\n\nSome é text.\n\n".encode() * 30),
    "code": ("code.py", b"def f(x):\n    return x\n" * 30),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_files_are_used_or_refused(tmp_path: Path, catalog: Catalog, seed: str) -> None:
    assert len(SEEDS) == 20
    name, data = SEEDS[seed]
    path = tmp_path / name
    path.write_bytes(data)
    assert len(load(catalog, path).train) > 0
    rng = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(data, rng))
        started = time.process_time()
        try:
            load(catalog, path)
        except DataError as error:
            assert path.stem in error.message
        assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
