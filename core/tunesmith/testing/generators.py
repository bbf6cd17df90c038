"""Checks of generators, with a fake base model and fake baselines."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from tunesmith.contracts import BaselineTask, BaselineVariant, Generation, Progress, SkippedRow
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.records import Prompt, Record, is_immutable, last_exchange
from tunesmith.testing.baselines import CLASSES, DigestEncoder, DigestModel
from tunesmith.testing.checks import Subject, check, require

COUNT = 12


class FirstAnswerModel(DigestModel):
    """A text model that answers every prompt with the first answer of its training rows."""

    def __init__(self, train: Sequence[Record]) -> None:
        self._answer = last_exchange(train[0])[1].text if train else ""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the same answer to each prompt."""
        return [Generation(self._answer, 1, "stop", confidence=1.0) for _ in prompts]


def propose(
    subject: Subject,
    records: Sequence[Record] = CLASSES,
    folder: Path | None = None,
    stop_after: int | None = None,
) -> list[GeneratedRow | SkippedRow]:
    """Return what a new generator yields, up to ``stop_after`` results."""

    def solve(name: str, train: Sequence[Record]) -> Iterable[BaselineVariant]:
        return [BaselineVariant(name="", model=FirstAnswerModel(train))]

    with tempfile.TemporaryDirectory() as temporary:
        task = GeneratorTask(
            task=BaselineTask(train=records, base=DigestModel, seed=3, encoder=DigestEncoder),
            count=COUNT,
            folder=folder or Path(temporary),
            solve=solve,
        )
        return list(islice(subject.build().generate(task), stop_after))


@check("generator")
def proposes_rows_or_gives_reasons(subject: Subject) -> None:
    """It yields immutable records with valid parents, at most as many as requested, or reasons."""
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
    """The generator does not fail, or change the rows, if there is no training row, or only one."""
    few: tuple[Sequence[Record], ...] = ((), CLASSES[:1])
    for rows in few:
        before = list(rows)
        propose(subject, rows)
        require(list(rows) == before, "it changed the training rows")
