"""Checks of data loaders."""

from __future__ import annotations

import re

from tunesmith.contracts import Dataset, LeftOut
from tunesmith.errors import DataError
from tunesmith.options import from_table
from tunesmith.records import Record
from tunesmith.testing.checks import NotApplicable, Subject, check, require

FILE_AND_LINE = re.compile(r"[^\s:]:\d+\b")


def load_samples(subject: Subject) -> Dataset:
    """Read the sample data with a new data loader."""
    dataset: Dataset = subject.build().load()
    return dataset


@check("data loader")
def yields_valid_dataset(subject: Subject) -> None:
    """Every record has a source; every row left out has a position and a cause."""
    dataset = load_samples(subject)
    require(isinstance(dataset, Dataset), f"load returns {type(dataset).__name__}, not a Dataset")
    records = [*dataset.train, *(dataset.heldout or ())]
    require(bool(records), "the sample data holds no record")
    for record in records:
        require(isinstance(record, Record), f"a {type(record).__name__} is not a record")
        require(bool(record.source), f"{record!r:.100} has no source")
    for row in dataset.left_out:
        require(isinstance(row, LeftOut), f"left_out holds a {type(row).__name__}")
        require(bool(row.where and row.cause), f"{row!r:.100} lacks a position or a cause")


@check("data loader")
def is_sized_and_rereadable(subject: Subject) -> None:
    """The records have a length and can be read again, from the start, in the same order."""
    dataset = load_samples(subject)
    for part in (dataset.train, dataset.heldout or ()):
        require(hasattr(part, "__len__") and hasattr(part, "__getitem__"), "records are not sized")
        first, second = list(part), list(part)
        require(first == second, "a second pass over the records gives other records")
        require(len(part) == len(first), f"len is {len(part)}, there are {len(first)} records")
        require(
            all(part[i] == record for i, record in enumerate(first)), "indexing gives other records"
        )


@check("data loader")
def same_order_twice(subject: Subject) -> None:
    """Loading the same data again gives the same records in the same order."""
    first, second = load_samples(subject), load_samples(subject)
    require(list(first.train) == list(second.train), "the second load gives other records")
    parts = [None if d.heldout is None else list(d.heldout) for d in (first, second)]
    require(parts[0] == parts[1], "the second load gives other held-out records")


@check("data loader")
def splits_are_disjoint(subject: Subject) -> None:
    """No row is in both parts of the data."""
    dataset = load_samples(subject)
    if dataset.heldout is None:
        raise NotApplicable("the sample data has no held-out records")
    both = {r.source for r in dataset.train} & {r.source for r in dataset.heldout}
    require(not both, f"in both parts: {', '.join(sorted(both)[:3])}")


@check("data loader")
def names_file_and_line_in_errors(subject: Subject) -> None:
    """Unusable data is refused with a ``DataError`` that names file and line."""
    options = subject.samples.broken.get(subject.offer.name)
    if options is None:
        raise NotApplicable(f"needs options of broken data for {subject.offer.name}")
    loader = subject.offer.build(from_table(subject.offer.config, options))
    try:
        loader.load()
    except DataError as error:
        require(
            FILE_AND_LINE.search(error.message) is not None,
            f"the error names no file and line: {error.message!r}",
        )
        return
    except Exception as error:
        raise AssertionError(f"broken data raises {type(error).__name__}: {error}") from None
    raise AssertionError("broken data is loaded without an error")
