"""Checks of generators, with a fake base model and fake baselines."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tunesmith.contracts import BaselineTask, BaselineVariant, SkippedRow
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.records import Record, is_immutable
from tunesmith.testing.baselines import CLASSES, DigestEncoder, DigestModel
from tunesmith.testing.checks import Subject, check, require

COUNT = 12


def propose(
    subject: Subject,
    records: Sequence[Record] = CLASSES,
    folder: Path | None = None,
    stop_after: int | None = None,
) -> list[GeneratedRow | SkippedRow]:
    """Return what a new generator yields, up to ``stop_after`` results."""

    with tempfile.TemporaryDirectory() as temporary:
        task = GeneratorTask(
            task=BaselineTask(train=records, base=DigestModel, seed=3, encoder=DigestEncoder),
            count=COUNT,
            folder=folder or Path(temporary),
            solve=lambda name, train: [BaselineVariant(name="", model=DigestModel())],
        )
        return list(islice(subject.build().generate(task), stop_after))


@check("generator")
def proposes_rows_or_gives_reasons(subject: Subject) -> None:
    """It yields immutable records with valid parents, at most the requested number, or reasons."""
    found = propose(subject)
    rows = [row for row in found if isinstance(row, GeneratedRow)]
    require(bool(found), "it yields neither rows nor reasons")
    require(all(row.cause for row in found if isinstance(row, SkippedRow)), "a reason is empty")
    require(len(rows) <= COUNT, f"{len(rows)} rows, but {COUNT} were requested")
    for row in rows:
        require(is_immutable(row.record), f"{row.record!r} can be changed")
        require(row.parent is None or 0 <= row.parent < len(CLASSES), f"no parent {row.parent}")


@check("generator")
def proposes_the_same_rows_twice(subject: Subject) -> None:
    """The same task gives the same rows in the same order."""
    require(propose(subject) == propose(subject), "a second generator proposes other rows")


@check("generator")
def continues_after_an_interruption(subject: Subject) -> None:
    """A generator that was interrupted yields the same rows when it starts again."""
    with tempfile.TemporaryDirectory() as folder:
        propose(subject, folder=Path(folder), stop_after=2)
        require(
            propose(subject, folder=Path(folder)) == propose(subject),
            "after an interruption it proposes other rows",
        )


@check("generator")
def works_with_few_rows(subject: Subject) -> None:
    """With no training rows, or only one, the generator does not fail or change the rows."""
    few: tuple[Sequence[Record], ...] = ((), CLASSES[:1])
    for rows in few:
        before = list(rows)
        propose(subject, rows)
        require(list(rows) == before, "it changed the training rows")
