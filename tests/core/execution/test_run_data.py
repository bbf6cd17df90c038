"""The data of a run: split without copies, fingerprinted, and every row accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from bench import ROWS, Bench, RowsOptions, bench_plugin, catalog_of, rows

from tunesmith.contracts import Dataset, SkippedRow
from tunesmith.data.subset import Subset
from tunesmith.data.units import RecordsByUnit
from tunesmith.errors import DataError
from tunesmith.execution.run_data import count_lengths, load_data
from tunesmith.offers import DataLoaderOffer
from tunesmith.records import Completion, Record, Text


class CountingRecords(Sequence[Record]):
    """Records that exist only while they are looked at, and count how often they are read."""

    def __init__(self, count: int, labels: int = 0) -> None:
        self.count = count
        self.labels = labels
        self.passes = 0
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        return self._record(range(self.count)[index])

    def __iter__(self) -> Iterator[Record]:
        self.passes += 1
        return map(self._record, range(self.count))

    def _record(self, number: int) -> Record:
        answer = f"label {number % self.labels}" if self.labels else f"answer {number}"
        return Completion(source=f"row:{number}", prompt=f"prompt {number}", completion=answer)


def bench_with(tmp_path: Path, dataset: Dataset) -> Bench:
    class Loader:
        def load(self) -> Dataset:
            return dataset

    offer: DataLoaderOffer[RowsOptions] = DataLoaderOffer(
        name="rows", summary="rows", config=RowsOptions, build=lambda options: Loader()
    )
    return Bench(tmp_path, catalog_of(bench=bench_plugin(loader=offer)))


def test_records_are_read_once_and_not_copied(tmp_path: Path) -> None:
    records = CountingRecords(2_000)
    plan = bench_with(tmp_path, Dataset(train=records)).plan(split={"near_duplicates": False})
    _, parts = load_data(plan)
    assert isinstance(parts.train, Subset)
    assert isinstance(parts.test, RecordsByUnit) and isinstance(parts.test.records, Subset)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (1_440, 160, 400)
    assert (records.passes, records.read) == (1, [])
    first = parts.test[0]
    assert set(records.read) == set(parts.test.records.indices)
    # Clusters read its groups, prompts and conversations: a pass over the part for each.
    assert len(records.read) <= 5 * len(parts.test) + 1
    assert list(parts.test[:2]) == [first, parts.test[1]]


def test_without_a_split_the_parts_are_those_of_the_loader(tmp_path: Path) -> None:
    records = [
        Completion(source=f"row:{n}", prompt=f"prompt {n}", completion=f"{n}", group=f"g{n % 3}")
        for n in range(30)
    ]
    bench = bench_with(tmp_path, Dataset(train=records[:20], test=records[20:]))
    _, parts = load_data(bench.plan(), splits=False)
    assert (list(parts.train), list(parts.validation)) == (records[:20], [])
    assert list(parts.test) == list(parts.measured) == records[20:]
    other = tmp_path / "other"
    other.mkdir()
    _, parts = load_data(bench_with(other, Dataset(train=records)).plan(), splits=False)
    assert list(parts.measured) == list(parts.train) == records


@pytest.mark.parametrize(("labels", "each"), [(4, 5), (100, None), (0, None)])
def test_recurring_answers_are_class_labels(tmp_path: Path, labels: int, each: int | None) -> None:
    records = CountingRecords(100, labels)
    _, parts = load_data(bench_with(tmp_path, Dataset(train=records)).plan())
    answers = [r.completion for r in parts.test if isinstance(r, Completion)]
    if each is not None:
        assert [answers.count(f"label {n}") for n in range(labels)] == [each] * labels
    assert len(answers) == 20


def test_the_fingerprint_covers_every_field_of_every_record(tmp_path: Path) -> None:
    def fingerprint(train: list[Record], test: list[Record] | None = None) -> str:
        return load_data(bench.plan(Dataset(train=train, test=test)))[1].fingerprint

    class Planner:
        def plan(self, dataset: Dataset) -> Any:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            return bench_with(folder, dataset).plan()

    bench = Planner()
    one = Completion(source="a:1", prompt="p", completion="c")
    two = Completion(source="a:2", prompt="q", completion="d")
    base = fingerprint([one, two])
    assert fingerprint([one, two]) == base
    grouped = Completion(source="a:2", prompt="q", completion="d", group="g")
    moved = Completion(source="a:1", prompt="pc", completion="")
    changed = [[two, one], [one, grouped], [moved, two], [one, two, two]]
    assert base not in map(fingerprint, changed)
    parts = {fingerprint([one], [two]), fingerprint([two], [one]), fingerprint([one, two], [two])}
    assert len(parts) == 3 and base not in parts


def test_a_part_without_rows_and_a_record_of_a_wrong_kind_are_refused(tmp_path: Path) -> None:
    good = Completion(source="a:1", prompt="p", completion="c")
    cases = [
        (Dataset(train=[]), "none of the training rows can be used"),
        (Dataset(train=[good], test=[]), "none of the test rows can be used"),
        (Dataset(train=[good], test=[Text(source="b:7", text="t")]), "b:7: technique echo"),
    ]
    for number, (dataset, message) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(DataError, match=message):
            load_data(bench_with(folder, dataset).plan())


def test_rows_that_are_skipped_are_in_the_quarantine_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write_rows([*rows(30), {"prompt": "x", "completion": ""}])
    bench.run()
    path = tmp_path / "out" / "skipped.jsonl"
    (line,) = path.read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert found["where"].endswith("rows.jsonl:31") and found["cause"] == "answer is empty"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_quarantine_file_is_written_also_if_the_data_is_refused(tmp_path: Path) -> None:
    class Refusing:
        def load(self) -> Dataset:
            row = SkippedRow(where="a:3", cause="broken", row='{"secret": "\ud83d"}')
            raise DataError("a", "too many rows", skipped=[row])

    offer: DataLoaderOffer[RowsOptions] = DataLoaderOffer(
        name="rows", summary="rows", config=RowsOptions, build=lambda options: Refusing()
    )
    bench = Bench(tmp_path, catalog_of(bench=bench_plugin(loader=offer)))
    with pytest.raises(DataError):
        bench.run()
    found = json.loads((tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8"))
    assert (found["where"], found["row"]) == ("a:3", '{"secret": "\ud83d"}')
    assert "secret" not in (tmp_path / "out" / "report.json").read_text(encoding="utf-8")


def test_no_quarantine_file_without_such_rows(tmp_path: Path) -> None:
    Bench(tmp_path).run()
    assert not (tmp_path / "out" / "skipped.jsonl").exists()
    assert ROWS.name == "rows"


@pytest.mark.parametrize("where", ["r:1", "/other/folder, with 'marks'/r:1"])
def test_the_fingerprint_is_that_of_the_content_and_not_of_the_folder(
    tmp_path: Path, where: str
) -> None:
    """So a run can be resumed from another working directory, which paths are shown from."""

    numbers = count()

    def fingerprint(source: str, prompt: str = "a, source='x', b") -> str:
        first = Completion(source=source, prompt=prompt, completion="c")
        others = [Completion(source=f"x:{n}", prompt=f"p{n}", completion="c") for n in range(9)]
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        bench = bench_with(folder, Dataset(train=[first, *others]))
        return load_data(bench.plan())[1].fingerprint

    assert fingerprint(where) == fingerprint("a:7")
    assert fingerprint(where) != fingerprint(where, prompt="another")


def test_lengths_are_counted_by_powers_of_two() -> None:
    class Own(Record):
        """A kind that a plugin defines."""

    def completion(prompt: int, answer: int) -> Completion:
        return Completion(source="s", prompt="x" * prompt, completion="y" * answer)

    sizes = [(1, 1), (2, 3), (16, 17), (33, 0)]
    records = [
        *(completion(*pair) for pair in sizes),
        Text(source="s", text="12345"),
        Own(source="s"),
    ]
    assert count_lengths(records) == {
        "prompt": {"1": 1, "2": 1, "16": 1, "64": 1},
        "answer": {"1": 1, "4": 1, "32": 1, "8": 1},
    }
    assert count_lengths([]) == {"prompt": {}, "answer": {}}


def test_of_many_rows_only_some_are_measured() -> None:
    records = CountingRecords(1_000_000)
    counted = count_lengths(records)
    assert sum(counted["prompt"].values()) == len(records.read) == 2_000
