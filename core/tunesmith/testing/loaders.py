"""Checks of data loaders."""

from __future__ import annotations

import re

from tunesmith.contracts import Dataset, LeftOut
from tunesmith.errors import DataError
from tunesmith.options import from_table
from tunesmith.records import Record
from tunesmith.testing.checks import NotApplicable, Subject, check, demand

FILE_AND_LINE = re.compile(r"[^\s:]:\d+\b")


def loaded(subject: Subject) -> Dataset:
    """The sample data, read by a fresh loader."""
    dataset: Dataset = subject.build().load()
    return dataset


@check("data loader")
def yields_what_it_says(subject: Subject) -> None:
    """A dataset of records with a source each; every row left out has a place and a cause."""
    dataset = loaded(subject)
    demand(isinstance(dataset, Dataset), f"load gives {type(dataset).__name__}, not a Dataset")
    records = [*dataset.train, *(dataset.heldout or ())]
    demand(bool(records), "the sample data holds no record")
    for record in records:
        demand(isinstance(record, Record), f"a {type(record).__name__} is not a record")
        demand(bool(record.source), f"{record!r:.100} does not say where it is from")
    for row in dataset.left_out:
        demand(isinstance(row, LeftOut), f"left_out holds a {type(row).__name__}")
        demand(bool(row.where and row.cause), f"{row!r:.100} lacks a place or a cause")


@check("data loader")
def is_sized_and_rereadable(subject: Subject) -> None:
    """The records have a length and can be read again, from the start, in the same order."""
    dataset = loaded(subject)
    for part in (dataset.train, dataset.heldout or ()):
        demand(hasattr(part, "__len__") and hasattr(part, "__getitem__"), "records are not sized")
        first, second = list(part), list(part)
        demand(first == second, "a second pass over the records gives others")
        demand(len(part) == len(first), f"len says {len(part)}, there are {len(first)}")
        demand(all(part[i] == record for i, record in enumerate(first)), "indexing gives others")


@check("data loader")
def same_order_twice(subject: Subject) -> None:
    """Loading the same data again gives the same records in the same order."""
    first, second = loaded(subject), loaded(subject)
    demand(list(first.train) == list(second.train), "the second load gives other records")
    parts = [None if d.heldout is None else list(d.heldout) for d in (first, second)]
    demand(parts[0] == parts[1], "the second load gives other held-out records")


@check("data loader")
def splits_are_disjoint(subject: Subject) -> None:
    """No row is in both parts."""
    dataset = loaded(subject)
    if dataset.heldout is None:
        raise NotApplicable("the sample data brings no held-out records")
    both = {r.source for r in dataset.train} & {r.source for r in dataset.heldout}
    demand(not both, f"in both parts: {', '.join(sorted(both)[:3])}")


@check("data loader")
def names_file_and_line_in_errors(subject: Subject) -> None:
    """Data that cannot be used is refused with a ``DataError`` that says where."""
    given = subject.samples.broken.get(subject.offer.name)
    if given is None:
        raise NotApplicable(f"needs options of broken data for {subject.offer.name}")
    loader = subject.offer.build(from_table(subject.offer.config, given))
    try:
        loader.load()
    except DataError as error:
        demand(
            FILE_AND_LINE.search(error.message) is not None,
            f"the error names no file and line: {error.message!r}",
        )
        return
    except Exception as error:
        raise AssertionError(f"broken data raises {type(error).__name__}: {error}") from None
    raise AssertionError("broken data is loaded without a word")
