"""Contracts of generators, which propose further training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tunesmith.contracts import BaselineTask, BaselineVariant, SkippedRow
from tunesmith.records import Record


@dataclass(frozen=True, kw_only=True)
class GeneratorTask:
    """The input of a generator: the rows to learn from, and the maximum number to propose."""

    task: BaselineTask
    """The training rows, the base model, the seed of the run, and the encoder. A generator never
    sees validation or test rows."""
    count: int
    """Maximum number of rows to propose."""
    folder: Path
    """Folder for files that the generator reads when it continues after an interruption."""
    solve: Callable[[str, Sequence[Record]], Iterable[BaselineVariant]]
    """Return the variants of the installed baseline of this name, built from these rows."""


@dataclass(frozen=True, kw_only=True)
class GeneratedRow:
    """A proposed row, and where it comes from."""

    record: Record
    parent: int | None = None
    """Index of the training row that this row is derived from; None if there is no such row."""
    model: str = ""
    """Name of the model that wrote the prompt or the answer; empty if no model did."""
    details: Mapping[str, str] = field(default_factory=dict)
    """Further provenance, such as the rule or a hash of the instructions."""


class Generator(Protocol):
    """Proposes training rows, which are filtered, counted and measured before they are used."""

    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        """Yield rows, and a skipped row for each attempt that gave no row.

        The same task and the same answers of the models give the same rows in the same order.
        """
        ...
