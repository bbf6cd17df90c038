"""The offer and the reporter: the page is written when the reporter closes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from pydantic import Field

from tunesmith.contracts import Reporter
from tunesmith.events import Event, from_json
from tunesmith.execution.report import fold
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder, read_events, write_atomic


class HtmlOptions(Options):
    """Where the page goes."""

    path: str = Field(
        "report.html",
        min_length=1,
        description="The page; a relative path is below the run's folder.",
    )
    changed_rows: int = Field(
        50, ge=0, le=10_000, description="Most rows to show that a baseline did better on."
    )


class Html:
    """Writes the page when it closes: however a run ends, and from the run's own log.

    What an earlier process of a resumed run said is in the log too, so nothing is kept here.
    """

    def __init__(self, options: HtmlOptions, folder: RunFolder) -> None:
        self._options = options
        self._folder = folder

    def __enter__(self) -> Html:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Imported here, so that a run file is checked without a template engine.
        from tunesmith_plugins.reporters.html.page import render

        events = (from_json(line) for line in read_events(self._folder.events))
        report = fold(event for event in events if event is not None)
        page = render(report, self._folder.path, self._options.changed_rows)
        path = self._folder.path / Path(self._options.path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, page)

    def report(self, event: Event) -> None:
        """Nothing to do: the event is in the run's log already."""


def build(options: HtmlOptions, folder: RunFolder) -> Reporter:
    """The reporter."""
    return Html(options, folder)


HTML = ReporterOffer(
    name="html",
    summary="the report as one HTML page: verdict, intervals, curves, what got worse",
    config=HtmlOptions,
    build=build,
    needs=("jinja2>=3.1",),
    by_default=True,
)
