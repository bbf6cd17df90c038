"""Checks of data loaders."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import Dataset, SkippedRow
from tunesmith.errors import DataError, TunesmithError
from tunesmith.options import from_table
from tunesmith.records import Record
from tunesmith.testing.checks import NeedsSample, NotApplicable, Subject, check, require
from tunesmith.testing.packaged import packaged_options
from tunesmith.testing.worked_examples import LoaderExample

TABLE_SUFFIXES = (".csv", ".tsv")
MAX_MESSAGE = 500
"""Maximum length of the message of an error about a URL, which may have millions of characters."""
UNUSABLE_URLS = (
    "",
    "data:",
    "data:image/png,not-base64",
    "data:image/png;base64,",
    "data:image/png;base64,%%%%",
    f"data:application/octet-stream;base64,{'AAAA' * 1000}",
    "file:///etc/hostname",
    "http://127.0.0.1:9/picture.png",
)
FILE_AND_LINE = re.compile(r"[^\s:]:\d+\b")


def load_samples(subject: Subject) -> Dataset:
    """Read the sample data with a new data loader."""
    try:
        dataset: Dataset = subject.build().load()
    except TunesmithError as error:
        if subject.is_packaged():
            name = subject.offer.name
            raise NeedsSample(
                f"the loader cannot read the kit's sample ({error.message}): pass --set "
                f"{name}.train=FILE on the command line, or `samples` in a test"
            ) from None
        raise
    return dataset


@check("data loader")
def yields_valid_dataset(subject: Subject) -> None:
    """Every record has a source, and every skipped row has a position and a cause."""
    dataset = load_samples(subject)
    require(isinstance(dataset, Dataset), f"load returns {type(dataset).__name__}, not a Dataset")
    records = [*dataset.train, *(dataset.test or ())]
    require(bool(records), "the loader returns no records for the sample data")
    for record in records:
        require(
            isinstance(record, Record), f"a value of type {type(record).__name__} is not a Record"
        )
        require(bool(record.source), f"{record!r:.100} has no source")
    for row in dataset.skipped:
        kind = type(row).__name__
        require(isinstance(row, SkippedRow), f"skipped contains a value of type {kind}")
        require(bool(row.where and row.cause), f"{row!r:.100} lacks a position or a cause")


@check("data loader")
def explains_missing_media(subject: Subject) -> None:
    """A file with media that does not exist is an error for the user, which names the file."""
    if subject.offer.read_media is None:
        raise NotApplicable("the loader reads no media")
    try:
        subject.offer.read_media(subject.options(), Path("nowhere") / "missing.png")
    except TunesmithError as error:
        require("missing.png" in error.message, f"{error.message!r} does not name the file")
    else:
        require(False, "read_media returns a part for a file that does not exist")


@check("data loader")
def refuses_unusable_media_urls(subject: Subject) -> None:
    """A URL without usable media is a DataError with a short message; other URLs are not opened."""
    if (read := subject.offer.read_media) is None:
        raise NotApplicable("the loader reads no media")
    for url in UNUSABLE_URLS:
        try:
            read(subject.options(), url)
        except DataError as error:
            require(len(error.message) < MAX_MESSAGE, f"the message repeats the URL {url:.40}")
        else:
            require(False, f"read_media returns a part for {url:.40}")


@check("data loader")
def is_sized_and_rereadable(subject: Subject) -> None:
    """The records have a length and can be read again from the start, in the same order."""
    dataset = load_samples(subject)
    for part in (dataset.train, dataset.test or ()):
        is_sized = hasattr(part, "__len__") and hasattr(part, "__getitem__")
        require(is_sized, "the records have no length or cannot be indexed")
        first, second = list(part), list(part)
        require(first == second, "reading the records a second time gives different records")
        require(len(part) == len(first), f"len is {len(part)}, but there are {len(first)} records")
        require(
            all(part[i] == record for i, record in enumerate(first)),
            "indexing gives different records than iterating",
        )


@check("data loader")
def same_order_twice(subject: Subject) -> None:
    """Loading the same data again gives the same records in the same order."""
    first, second = load_samples(subject), load_samples(subject)
    require(list(first.train) == list(second.train), "the second load gives different records")
    parts = [None if d.test is None else list(d.test) for d in (first, second)]
    require(parts[0] == parts[1], "the second load gives different test records")


@check("data loader")
def splits_are_disjoint(subject: Subject) -> None:
    """No row is in both the training and the test records."""
    dataset = load_samples(subject)
    if dataset.test is None:
        raise NotApplicable("the sample data has no test records")
    both = {r.source for r in dataset.train} & {r.source for r in dataset.test}
    require(not both, f"rows in both training and test records: {', '.join(sorted(both)[:3])}")


@check("data loader")
def names_file_and_line_in_errors(subject: Subject) -> None:
    """Data that cannot be used raises a ``DataError`` that names file and line."""
    options = subject.samples.broken.get(subject.offer.name)
    is_packaged = options is None and subject.is_packaged()
    options = packaged_options(subject.offer, broken=True) if is_packaged else options
    if not options:
        name = subject.offer.name
        raise NeedsSample(f"needs broken data for {name}: pass `broken` in a test")
    loader = subject.offer.build(from_table(subject.offer.config, options))
    try:
        loader.load()
    except DataError as error:
        require(
            FILE_AND_LINE.search(error.message) is not None,
            f"the error does not name file and line: {error.message!r}",
        )
        return
    except Exception as error:
        what = f"broken data raises {type(error).__name__} instead of DataError: {error}"
        raise AssertionError(what) from None
    if is_packaged:
        raise NeedsSample("the loader accepts the kit's broken file: pass `broken` in a test")
    raise AssertionError("the loader accepts broken data without an error")


MIN_ROW_LINES = 0.65
"""Share of lines with a row above which a file has one row per line. In a file that
alternates between questions and answers, about half of the lines have a row."""


@check("data loader")
def accounts_for_every_row(subject: Subject) -> None:
    """Each line of the sample becomes one record or one skipped row; no line is lost or repeated.

    This is checked if the sample is a text file where at least 65 % of the lines are rows. The
    first line may be a header.
    """
    dataset = load_samples(subject)
    records = [*dataset.train, *(dataset.validation or ()), *(dataset.test or ())]
    positions = [str(getattr(record, "source", "")) for record in records]  # it may not be a Record
    positions += [row.where for row in dataset.skipped]
    checked = False
    for path in _text_files(subject.sample()):
        filled = _row_lines(path)
        found = Counter(_lines_of(path, positions))
        if len(filled & found.keys()) < max(2, MIN_ROW_LINES * len(filled)):
            continue
        checked = True
        missing = sorted(filled - found.keys())
        if missing[:1] == [1] and path.suffix in TABLE_SUFFIXES:
            del missing[0]
        lines_text = ", ".join(f"{path.name}:{n}" for n in missing[:3])
        require(not missing, f"lines that became neither a record nor a skipped row: {lines_text}")
        twice = [f"{path.name}:{n}" for n, count in found.items() if count > 1]
        require(not twice, f"lines that became more than one record or row: {', '.join(twice[:3])}")
    if not checked:
        raise NotApplicable("the sample is not a text file with one row per line; pass `examples`")


@check("data loader")
def loads_its_examples(subject: Subject) -> None:
    """Loading a worked example gives its records, in order, and its number of skipped rows."""
    examples = subject.samples.examples.get(subject.offer.name, ())
    chosen = [example for example in examples if isinstance(example, LoaderExample)]
    if not chosen:
        name = subject.offer.name
        raise NeedsSample(f"needs examples for {name}: pass `examples` in a test")
    for number, example in enumerate(chosen, 1):
        loader = subject.offer.build(from_table(subject.offer.config, example.options))
        dataset: Dataset = loader.load()
        for name, records, expected in (
            ("train", dataset.train, example.train),
            ("test", dataset.test or (), example.test),
        ):
            _require_equal(f"example {number}, {name}", records, expected)
        count = len(dataset.skipped)
        require(
            count == example.skipped,
            f"example {number}: {count} rows are skipped, expected {example.skipped}",
        )


def _require_equal(what: str, records: Sequence[Record], expected: Sequence[Record]) -> None:
    require(len(records) == len(expected), f"{what}: {len(records)} records, not {len(expected)}")
    for n, (record, other) in enumerate(zip(records, expected, strict=True), 1):
        found, wanted = replace(record, source=""), replace(other, source="")
        require(found == wanted, f"{what}, record {n}: {found!r:.200}, expected {wanted!r:.200}")


def _text_files(options: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files whose paths are in the sample options."""
    for value in options.values():
        path = Path(value) if isinstance(value, str) and len(value) < 4096 else None
        if path is not None and path.is_file() and b"\0" not in path.read_bytes()[:4096]:
            yield path


def _row_lines(path: Path) -> set[int]:
    """Return the lines where a row starts: lines with text, or the first line of each CSV row."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if path.suffix not in TABLE_SUFFIXES:
        return {n for n, line in enumerate(lines, 1) if line.strip()}
    reader = csv.reader(
        (f"{line}\n" for line in lines), delimiter="\t" if path.suffix == ".tsv" else ","
    )
    rows, first = set(), 1
    for row in reader:
        if any(cell.strip() for cell in row):
            rows.add(first)
        first = reader.line_num + 1
    return rows


def _lines_of(path: Path, positions: Sequence[str]) -> Iterator[int]:
    """Yield the line numbers in a file from positions written as ``file:line``."""
    for position in positions:
        file, _, line = position.rpartition(":")
        if line.isdigit() and Path(file).name == path.name:
            yield int(line)
