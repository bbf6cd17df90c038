"""Results as HTML, for notebooks. All texts are escaped: they come from data and plugins."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tunesmith.execution.report import Report
from tunesmith_evidence.formats import (
    format_interval,
    format_number,
    format_rows,
)


def report_to_html(name: str, report: Report) -> str:
    """Return the verdict of a run and the scores of its models."""
    verdict = report.finished.verdict if report.finished else {}
    word = verdict.get("word") or verdict.get("outcome") or report.status
    sentence = verdict.get("sentence") or (report.finished.error if report.finished else "")
    rows = [
        [
            event.model,
            report.metric_label(event.evaluator, event.metric),
            format_number(event.value),
            format_interval(event.low, event.high),
            format_rows(event.n, event.units),
        ]
        for event in report.measured.values()
    ]
    scores = table_to_html(["model", "metric", "value", "95 % interval", "n"], rows) if rows else ""
    return f"<p><b>{escape(name)}: {escape(str(word))}</b><br>{escape(str(sentence))}</p>{scores}"


def table_to_html(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a line of column names."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
