"""Offer the ``html`` reporter, which writes the page when the run ends."""

from __future__ import annotations

from pydantic import Field

from tunesmith.events import Event
from tunesmith.execution.report import build_report
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder, read_known_events, write_atomic


class HtmlOptions(Options):
    """Options of ``html``: the path of the page, and how many test rows it shows."""

    path: str = Field(
        "report.html",
        min_length=1,
        description="Path of the page, relative to the run folder.",
    )
    max_answers: int = Field(
        100,
        ge=0,
        le=10_000,
        description=(
            "Maximum number of test rows shown with their answers: regressed rows first, then "
            "other incorrect ones."
        ),
    )


class HtmlReporter:
    """Writes the page at the end of the run, even if the run fails.

    The page is built from the run's log, which also contains the events before a resume.
    Therefore the reporter does not collect events itself.
    """

    def __init__(self, options: HtmlOptions, folder: RunFolder) -> None:
        self._options = options
        self._folder = folder
        self._path = folder.resolve_report_path(options.path)

    def __enter__(self) -> HtmlReporter:
        return self

    def __exit__(self, *error: object) -> None:
        # Imported here so that checking a run file does not import a template engine.
        from tunesmith_evidence.report.view import ReportView
        from tunesmith_plugins.reporters.html.page import render_page

        report = build_report(read_known_events(self._folder.events))
        page = render_page(ReportView(report, self._folder.path), self._options.max_answers)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, page)

    def report(self, event: Event) -> None:
        """Do nothing, because the event is already in the run's log."""


HTML = ReporterOffer(
    name="html",
    summary="the report as one HTML page: verdict, baselines, answers side by side, curves",
    config=HtmlOptions,
    build=HtmlReporter,
    needs=("jinja2>=3.1",),
    by_default=True,
)
