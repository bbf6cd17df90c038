"""The findings of a run's reviews, with the rows that they are about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import IntegrityError
from tunesmith.events import Notice
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report

MAX_ROWS = 200
"""Held-out rows that the page lists for a finding, by file and line."""
LEVELS = ("error", "warning", "info")


@dataclass(frozen=True)
class FindingSection:
    """A finding, and the held-out rows that it names."""

    notice: Notice
    rows: list[str]
    """File and line of each row, as far as they are known."""


def list_findings(report: Report, folder: Path) -> list[FindingSection]:
    """Return the warnings and errors, and the infos about rows, the worst first."""
    notices = [n for n in report.notices if n.level != "info" or n.count or n.examples]
    notices.sort(key=lambda notice: LEVELS.index(notice.level))
    sources = list(_heldout_sources(report, folder)) if any(n.heldout_rows for n in notices) else []
    return [
        FindingSection(
            notice, [sources[row] for row in notice.heldout_rows[:MAX_ROWS] if row < len(sources)]
        )
        for notice in notices
    ]


def _heldout_sources(report: Report, folder: Path) -> Iterator[str]:
    """Yield file and line of each held-out row, from an evaluation of all of them."""
    heldout = report.data.heldout if report.data else 0
    event = next((e for e in report.measured.values() if e.n == heldout), None)
    try:
        for row in read_rows(folder / event.records, event.metric) if event else ():
            yield str(row["source"])
    except (IntegrityError, KeyError):
        return
