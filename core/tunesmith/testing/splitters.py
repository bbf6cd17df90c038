"""Checks of splitters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from tunesmith.contracts import Split, SplitRequest
from tunesmith.errors import DataError
from tunesmith.records import Completion, Record
from tunesmith.testing.checks import NeedsSample, NotApplicable, Subject, check, require
from tunesmith.testing.examples import COMPLETIONS

ROWS = 120


def sample_records() -> list[Record]:
    """Return records with different prompts and times, in groups of three with the same site."""
    start, sites = date(2026, 1, 1), ("north", "south", "west")
    return [
        Completion(
            source=f"kit:{n}",
            prompt=f"{COMPLETIONS[n % 8].prompt} Number {n} of {n * 37 % 101}",
            completion=COMPLETIONS[n % 8].completion,
            group=f"group {n // 3}",
            slices=(
                ("time", (start + timedelta(days=2 * (n * 7 % ROWS))).isoformat()),
                ("site", sites[n // 3 % 3]),
            ),
        )
        for n in range(ROWS)
    ]


def split_samples(subject: Subject, records: Sequence[Record], *, all_parts: bool = True) -> Split:
    """Split sample records with a new splitter, into all three splits or training rows only."""
    request = SplitRequest(
        records=records,
        seed=3,
        test=all_parts,
        test_size=0.2,
        validation=all_parts,
        needs_validation=all_parts,
    )
    try:
        split: Split = subject.build().split(iter(records), request)
    except DataError as error:
        raise NeedsSample(
            "needs options that suit the sample records, which have the slices time (a "
            f"date) and site: {error}"
        ) from None
    return split


@check("splitter")
def puts_each_row_into_one_part(subject: Subject) -> None:
    """Each row is in exactly one split, and no requested split is empty."""
    records = sample_records()
    split = split_samples(subject, records)
    rows = sorted([*split.train, *split.validation, *split.test])
    require(rows == list(range(len(records))), "a row is in no split, or in more than one")
    for name in ("train", "validation", "test"):
        part = list(getattr(split, name))
        require(bool(part), f"the split {name} is empty")
        require(part == sorted(part), f"the rows of {name} are not in ascending order")


@check("splitter")
def splits_the_same_way_twice(subject: Subject) -> None:
    """The same records and the same seed give the same splits."""
    records = sample_records()
    first, second = (split_samples(subject, records) for _ in range(2))
    for name in ("train", "validation", "test"):
        parts = [list(getattr(split, name)) for split in (first, second)]
        require(parts[0] == parts[1], f"the second time, {name} has different rows")


@check("splitter")
def leaves_out_parts_that_are_not_asked_for(subject: Subject) -> None:
    """If the data loader returned a split, the splitter does not make it again."""
    records = sample_records()
    split = split_samples(subject, records, all_parts=False)
    require(not (split.validation or split.test), "the split has rows that were not requested")
    require(len(split.train) == len(records), "a row is in no split")


@check("splitter")
def keeps_groups_together(subject: Subject) -> None:
    """The rows of a group, such as all rows of one patient, are in the same split."""
    if subject.offer.divides_groups:
        raise NotApplicable("the splitter divides groups on purpose")
    records = sample_records()
    split = split_samples(subject, records)
    part_of: dict[str | None, str] = {}
    for name in ("train", "validation", "test"):
        for row in getattr(split, name):
            group = records[row].group
            other = part_of.setdefault(group, name)
            require(other == name, f"rows of {group} are in {other} and in {name}")
