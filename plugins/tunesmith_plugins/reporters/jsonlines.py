"""The ``jsonlines`` reporter: write the events of a run as JSON Lines, to a file or to stdout."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from pydantic import Field

from tunesmith.contracts import Reporter
from tunesmith.events import Event
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder
from tunesmith.storage.atomic import encode_json
from tunesmith.text import redact_all

STDOUT = "-"


class JsonlinesOptions(Options):
    """Options of ``jsonlines``: the file to write to."""

    path: str = Field(
        STDOUT,
        min_length=1,
        description=(
            "File to append to, relative to the run folder, or - for stdout. The run always "
            "writes its own events.jsonl as well."
        ),
    )


class JsonlinesReporter:
    """Writes every event immediately, including progress events, which the run's log omits.

    Secrets are redacted. The lines are pure ASCII, so no event can inject terminal control
    sequences or forge a line.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._open = ExitStack()
        self._stream: TextIO = sys.stdout

    def __enter__(self) -> JsonlinesReporter:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._open.enter_context(self._path.open("a", encoding="ascii"))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def report(self, event: Event) -> None:
        """Write the event as a line and flush the stream."""
        self._stream.write(encode_json(redact_all(event.to_json())) + "\n")
        self._stream.flush()


def build(options: JsonlinesOptions, folder: RunFolder) -> Reporter:
    """Create the reporter from its options."""
    to_stdout = options.path == STDOUT
    return JsonlinesReporter(None if to_stdout else folder.resolve_report_path(options.path))


JSONLINES = ReporterOffer(
    name="jsonlines",
    summary="every event as a line of JSON, to a file or to stdout, for other programs",
    config=JsonlinesOptions,
    build=build,
)
