"""Report answers that were cut off by ``max_new_tokens``, which may have lowered a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.text import format_count

__all__ = ["describe_cut_answers", "list_cut_answers"]

MIN_REPORTED_SHARE = 0.02
"""If the limit may have spoiled more than this share of answers, the verdict reports it."""


@dataclass(frozen=True)
class CutAnswers:
    """Counts how many of a model's answers ``max_new_tokens`` cut off."""

    rows: int
    """Number of answered rows."""
    cut: int
    """Number of answers that reached the limit."""
    short: int
    """Number of cut answers shorter than the reference, which the limit may have made wrong."""


def count_cut_answers(folder: Path, measured: Measured) -> CutAnswers:
    """Count the answers in a measurement of the run in ``folder`` that were cut off.

    Raises:
        IntegrityError: the per-row results file is missing or damaged.
    """
    if not measured.cut:
        return CutAnswers(measured.n, 0, 0)
    rows = read_rows(folder / measured.records, measured.metric)
    cut = [row for row in rows if row.get("cut")]
    short = sum(len(str(row.get("output", ""))) < len(str(row["expected"])) for row in cut)
    return CutAnswers(len(rows), len(cut), short)


def describe_cut_answers(folder: Path, measured: Measured) -> str:
    """Return a warning that ``max_new_tokens`` may have lowered a score, or "" if few rows are cut.

    Only answers that are cut off before they reach the reference's length count. A rambling model's
    answers are cut off too, but a higher limit would not help. The report lists those separately.
    """
    found = count_cut_answers(folder, measured)
    if found.short <= MIN_REPORTED_SHARE * found.rows:
        return ""
    cut = "was cut off before it" if found.short == 1 else "were cut off before they"
    return (
        f"{measured.model}: {found.short:,} of {format_count(found.rows, 'answer')} {cut} "
        "reached the length of the expected answer: raise max_new_tokens of "
        f"{measured.evaluator}"
    )


def list_cut_answers(events: Sequence[Measured]) -> str:
    """Return how many answers of each model were cut off, as text, or "" if none were."""
    counts = [f"{event.model} {event.cut:,} of {event.n:,}" for event in events if event.cut]
    return f"cut off by max_new_tokens: {', '.join(counts)}" if counts else ""
