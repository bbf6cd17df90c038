"""Answers that were cut at the limit of tokens: a score counts them, and must say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.text import format_count

__all__ = ["describe_cut", "list_cut"]

WORTH_SAYING = 0.02
"""Share of the rows whose answer the limit has spoiled, above which a verdict says it."""


@dataclass(frozen=True)
class CutAnswers:
    """The answers of a model, and those that were cut at the limit of tokens."""

    rows: int
    """Rows that were answered."""
    cut: int
    """Answers that ended at the limit of tokens."""
    short: int
    """Cut answers that are shorter than the reference: the limit may have made them wrong."""


def count_cut(folder: Path, measured: Measured) -> CutAnswers:
    """Count the cut answers of a measurement, whose file of rows is below ``folder``.

    Raises:
        IntegrityError: the file is lost or damaged.
    """
    if not measured.cut:
        return CutAnswers(measured.n, 0, 0)
    rows = read_rows(folder / measured.records, measured.metric)
    cut = [row for row in rows if row.get("cut")]
    short = sum(len(str(row.get("output", ""))) < len(str(row["expected"])) for row in cut)
    return CutAnswers(len(rows), len(cut), short)


def describe_cut(folder: Path, measured: Measured) -> str:
    """Return what the limit of tokens has done to a score; empty if hardly any row is concerned.

    A model that rambles is cut, too. That is its own fault, and only the report counts it.
    """
    found = count_cut(folder, measured)
    if found.short <= WORTH_SAYING * found.rows:
        return ""
    return (
        f"{format_count(found.short, 'answer')} of {found.rows:,} of {measured.model} were cut at "
        f"the limit of tokens before they were as long as the reference: raise max_new_tokens of "
        f"{measured.evaluator}"
    )


def list_cut(events: Sequence[Measured]) -> str:
    """Return how many answers of each model were cut; empty if none were."""
    counts = [f"{event.model} {event.cut:,} of {event.n:,}" for event in events if event.cut]
    return f"cut at the limit of tokens: {', '.join(counts)}" if counts else ""
