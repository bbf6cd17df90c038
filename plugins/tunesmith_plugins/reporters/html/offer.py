"""Offer and reporter of ``html``: the page is written when the reporter closes."""

from __future__ import annotations

from pydantic import Field

from tunesmith.events import Event
from tunesmith.execution.report import build_report
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder, read_known_events, write_atomic


class HtmlOptions(Options):
    """Options: the path of the page, and the number of rows on it."""

    path: str = Field(
        "report.html",
        min_length=1,
        description="Path of the page; a relative path is below the run's folder.",
    )
    max_answers: int = Field(
        100,
        ge=0,
        le=10_000,
        description=(
            "Most test rows whose answers are on the page: those that got worse first, then "
            "wrong ones."
        ),
    )


class HtmlReporter:
    """Writes the page when it closes, however the run ends.

    The page is made from the run's log, which also holds the events of earlier processes of a
    resumed run, so the reporter stores no events.
    """

    def __init__(self, options: HtmlOptions, folder: RunFolder) -> None:
        self._options = options
        self._folder = folder
        self._path = folder.resolve_report_path(options.path)

    def __enter__(self) -> HtmlReporter:
        return self

    def __exit__(self, *error: object) -> None:
        # Imported here, so that checking a run file does not import a template engine.
        from tunesmith_evidence.report.view import ReportView
        from tunesmith_plugins.reporters.html.page import render_page

        report = build_report(read_known_events(self._folder.events))
        page = render_page(ReportView(report, self._folder.path), self._options.max_answers)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, page)

    def report(self, event: Event) -> None:
        """Ignore the event: it is in the run's log already."""


HTML = ReporterOffer(
    name="html",
    summary="the report as one HTML page: verdict, baselines, answers side by side, curves",
    config=HtmlOptions,
    build=HtmlReporter,
    needs=("jinja2>=3.1",),
    by_default=True,
)
