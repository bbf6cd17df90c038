"""Results as HTML: every text is escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from tunesmith.events import RunFinished
from tunesmith.execution.report import build_report
from tunesmith.testing import sample_run
from tunesmith_evidence.report.view import ReportView
from tunesmith_python.html import report_to_html, table_to_html


class Tags(HTMLParser):
    """Collects the tags of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.add(tag)


def test_texts_are_escaped(tmp_path: Path) -> None:
    bad = '<script>alert("x")</script>'
    finished = RunFinished(
        status="failed", exit_code=1, finished="", seconds=0.0, error=bad, hint="", verdict={}
    )
    text = report_to_html(bad, ReportView(build_report([finished]), tmp_path)) + table_to_html(
        [bad], [[bad]]
    )
    assert Tags(text).names <= {"p", "b", "br", "table", "thead", "tbody", "tr", "th", "td"}
    assert "&lt;script&gt;" in text


def test_a_finished_run_shows_verdict_and_scores(tmp_path: Path) -> None:
    report = build_report(sample_run())
    text = report_to_html("mine", ReportView(report, tmp_path))
    assert report.finished is not None
    assert report.finished.verdict["sentence"] in text
    assert text.count("<tr>") == 1 + len(report.measured)
