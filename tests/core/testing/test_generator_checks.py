"""Silent bugs of generators, each with the check of the kit that finds it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from mutations import find_failed, specimen

from tunesmith.contracts import SkippedRow
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.offers import GeneratorOffer
from tunesmith.options import Options
from tunesmith.records import Completion
from tunesmith.testing import generators


class NoOptions(Options):
    """Options without a field."""


class Loud:
    """Writes prompts in capitals."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        if not task.task.train:
            yield SkippedRow(where="train", cause="there are no rows")
        for number, record in enumerate(task.task.train[: task.count]):
            assert isinstance(record, Completion)
            yield GeneratedRow(record=replace(record, prompt=self.write(record)), parent=number)

    def write(self, record: Completion) -> str:
        return record.prompt.upper()


class TooMany(Loud):
    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        return super().generate(replace(task, count=task.count + 1))


class Random(Loud):
    numbers = itertools.count()

    def write(self, record: Completion) -> str:
        return f"{record.prompt} {next(self.numbers)}"


class Forgetful(Loud):
    """Yields only the rows that it has not yet written to its folder."""

    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        for row in super().generate(task):
            seen = task.folder / str(getattr(row, "parent", "none"))
            if not seen.exists():
                seen.touch()
                yield row


class Greedy(Loud):
    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        assert len(task.task.train) > 1, "needs two rows"
        return super().generate(task)


class Silent(Loud):
    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        return iter(())


LOUD = GeneratorOffer(
    name="loud", summary="capitals", config=NoOptions, build=Loud, makes_variations=True
)
BUGS = {
    "more rows than requested": (TooMany, "proposes_rows_or_gives_reasons"),
    "no rows and no reason": (Silent, "proposes_rows_or_gives_reasons"),
    "random": (Random, "proposes_the_same_rows_twice"),
    "forgets rows": (Forgetful, "continues_after_an_interruption"),
    "needs two rows": (Greedy, "works_with_few_rows"),
}


def test_an_honest_generator_passes() -> None:
    assert find_failed(specimen("generators", LOUD)) == set()


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_of_a_generator_is_found(bug: str) -> None:
    generator, check = BUGS[bug]
    failed = find_failed(specimen("generators", replace(LOUD, build=generator)))
    assert check in failed and hasattr(generators, check)
