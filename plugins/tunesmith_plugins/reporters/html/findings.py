"""The findings of a run's reviews, with the rows that they are about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import IntegrityError
from tunesmith.events import FindingReported
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report

MAX_ROWS = 200
"""Test rows that the page lists for a finding, by file and line."""
LEVELS = ("error", "warning", "info")


@dataclass(frozen=True)
class FindingSection:
    """A finding, and the test rows that it names."""

    finding: FindingReported
    rows: list[str]
    """File and line of each row, as far as they are known."""


def list_findings(report: Report, folder: Path) -> list[FindingSection]:
    """Return the warnings and errors, and the infos about rows, the worst first."""
    findings = [n for n in report.findings if n.level != "info" or n.count or n.examples]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    sources = list(_test_sources(report, folder)) if any(n.test_rows for n in findings) else []
    return [
        FindingSection(
            finding, [sources[row] for row in finding.test_rows[:MAX_ROWS] if row < len(sources)]
        )
        for finding in findings
    ]


def _test_sources(report: Report, folder: Path) -> Iterator[str]:
    """Yield file and line of each test row, from an evaluation of all of them."""
    test = report.data.test if report.data else 0
    event = next((e for e in report.measured.values() if e.n == test), None)
    try:
        for row in read_rows(folder / event.records, event.metric) if event else ():
            yield str(row["source"])
    except (IntegrityError, KeyError):
        return
