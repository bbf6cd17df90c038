"""Records that are read again from their files: the same ones, with little memory."""

from __future__ import annotations

import gc
import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_data import Row, RowLoader, RowOptions
from tunesmith_data.stored import MAX_OPEN_FILES
from tunesmith_data.stored_records import BLOCK_BYTES, StoredRecords
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions


def row(number: int, size: int = 0) -> bytes:
    return json.dumps({"prompt": f"p{number}", "completion": "c" + "x" * size}).encode()


def load(paths: Any, **options: Any) -> Dataset:
    loader = JSONL.build(JsonlOptions(train=paths, **options))
    assert isinstance(loader, RowLoader)
    return RowLoader(loader.options, loader.read, memory=0).load()


def prompts(dataset: Dataset) -> list[str]:
    return [record.prompt for record in dataset.train if isinstance(record, Completion)]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = 6_000
    path.write_bytes(b"\n".join(row(n, 2_000) for n in range(rows)))
    load(str(path))  # imports
    gc.collect()
    tracemalloc.start()
    try:
        dataset = load(str(path))
        for _ in dataset.train:
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset.train) == rows
    # The first 1,000 rows decide the format, and a block of rows is read at a time.
    assert peak < 1_000 * 3_000 + 4 * BLOCK_BYTES < path.stat().st_size


def test_rows_are_read_in_any_order_and_as_slices(tmp_path: Path) -> None:
    for name, numbers in (("a", range(3)), ("b", range(3, 5))):
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n\n".join(map(row, numbers)))
    train = load(str(tmp_path / "*.jsonl")).train
    assert isinstance(train, StoredRecords)
    expected = [f"p{n}" for n in range(5)]
    assert [record.prompt for record in train if isinstance(record, Completion)] == expected
    picked = [train[4], train[0], train[-2]]
    assert [(r.source[-9:], getattr(r, "prompt", "")) for r in picked] == [
        ("b.jsonl:3", "p4"),
        ("a.jsonl:1", "p0"),
        ("b.jsonl:1", "p3"),
    ]
    assert list(train[1:4]) == [train[1], train[2], train[3]]
    with pytest.raises(IndexError):
        train[5]


def test_packed_files_are_read_again_from_a_temporary_file(tmp_path: Path) -> None:
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row(1) + b"\n" + row(2)))
    two_frames = compress(row(3) + b"\n") + compress(row(4))
    (tmp_path / "b.jsonl.zst").write_bytes(two_frames)
    dataset = load(str(tmp_path / "*"))
    (tmp_path / "a.jsonl.gz").unlink()
    assert prompts(dataset) == ["p1", "p2", "p3", "p4"]


def test_damaged_and_huge_zstd_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    packed = zstandard.ZstdCompressor().compress(row(1, 5_000))
    for data in (packed[:-4], packed[:20] + b"?" * 20, packed + packed[:9]):
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot be unpacked"):
            load(str(path))
    path.write_bytes(zstandard.ZstdCompressor().compress(bytes(50_000_000)))
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes"):
        load(str(path), max_unpacked_bytes=1_000_000)


@pytest.mark.parametrize("change", ["append", "edit", "replace", "remove"])
def test_a_file_that_changed_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(row(1) + b"\n" + row(2))
    os.utime(path, ns=(0, 0))
    dataset = load(str(path))
    match change:
        case "append":
            with path.open("ab") as file:
                file.write(b"\n" + row(3))
        case "edit":
            path.write_bytes(row(3) + b"\n" + row(4))
        case "replace":
            (tmp_path / "new").write_bytes(row(1) + b"\n" + row(2))
            (tmp_path / "new").rename(path)
        case "remove":
            path.unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl: (changed after|cannot be read again)"):
        dataset.train[0]


def test_many_files_are_not_open_at_the_same_time(tmp_path: Path) -> None:
    count = MAX_OPEN_FILES + 20
    for n in range(count):
        (tmp_path / f"{n:03}.jsonl").write_bytes(row(n))
    dataset = load(str(tmp_path / "*"))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert prompts(dataset) == [f"p{n}" for n in range(count)]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + MAX_OPEN_FILES
    del dataset
    gc.collect()
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_rows_without_a_position_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "names"
    path.write_text("ann\nbob\n")

    def read(stream: Any, name: str) -> Any:
        for number, line in enumerate(stream.read().splitlines(), 1):
            yield Row(number, {"text": line.decode(), "age": 2**80, "half": "\ud83d", "set": {1}})

    loader = RowLoader(RowOptions(train=str(path)), read, memory=0)
    dataset = loader.load()
    path.unlink()
    assert [getattr(record, "text", "") for record in dataset.train] == ["ann", "bob"]
    assert isinstance(dataset.train, StoredRecords)


@pytest.mark.parametrize("layout", ["array", "pretty"])
def test_arrays_and_objects_larger_than_a_block(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "rows.json"
    texts = ["\\" * n + '"' + "[,]{}" * 3 + "é" * n for n in range(60, 70)] * 200
    rows = [{"prompt": text, "completion": str(n)} for n, text in enumerate(texts)]
    indent = 1 if layout == "pretty" else None
    data = json.dumps(rows, ensure_ascii=False, indent=indent)
    if layout == "pretty":
        data = "\n".join(json.dumps(item, indent=1) for item in rows)
    path.write_text(data, encoding="utf-8")
    assert path.stat().st_size > 300_000
    dataset = load(str(path))
    assert prompts(dataset) == texts
    lines = data.splitlines()
    for number in range(0, len(texts), len(texts) // 7):
        source = dataset.train[number].source
        if layout == "array":
            assert source.endswith(f"rows.json, row {number + 1}")
        else:
            assert lines[int(source.rpartition(":")[2]) - 1].strip() == "{"


def test_a_long_string_over_many_blocks(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    long = '\\"' * 100_000 + "\\\\" * 65_536
    path.write_text(f'[{{"prompt": "{long}", "completion": "c"}}, {row(2).decode()}]')
    dataset = load(str(path))
    assert prompts(dataset) == [json.loads(f'"{long}"'), "p2"]
    path.write_text(f'[{{"prompt": "{long}')
    with pytest.raises(DataError, match="the array is not closed"):
        load(str(path))


def test_a_huge_element_of_an_array_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + row(1) + b"," + row(2, 3_000_000) + b"," + row(3) + b"]")
    dataset = load(str(path), max_row_bytes=10_000, max_skipped=0.5)
    assert prompts(dataset) == ["p1", "p3"]
    assert [item.cause for item in dataset.skipped] == ["row larger than 10,000 bytes"]
