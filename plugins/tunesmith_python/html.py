"""Render results as HTML, for notebooks. All texts are escaped: they come from data and plugins."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tunesmith_evidence.report.view import ReportView


def report_to_html(name: str, view: ReportView) -> str:
    """Return the verdict of a run and the scores of its models, as HTML."""
    finished = view.report.finished
    sentence = view.headline.sentence or (finished.error if finished else "")
    rows = [
        [score.model, metric.label, score.value, score.interval, score.rows]
        for metric in view.metrics
        for score in metric.scores
    ]
    scores = table_to_html(["model", "metric", "value", "95 % interval", "n"], rows) if rows else ""
    return (
        f"<p><b>{escape(name)}: {escape(view.headline.word)}</b><br>{escape(sentence)}</p>{scores}"
    )


def table_to_html(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table with a header row of column names."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
