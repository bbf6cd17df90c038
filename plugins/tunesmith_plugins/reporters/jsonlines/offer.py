"""The offer and the reporter: every event as one JSON object on a line of its own."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pydantic import Field

from tunesmith.contracts import Reporter
from tunesmith.events import Event
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder
from tunesmith.storage.atomic import encode_json

STDOUT = "-"


class JsonlinesOptions(Options):
    """Where the lines go."""

    path: str = Field(
        STDOUT,
        min_length=1,
        description=(
            "The file to append to, a relative one below the run's folder; - is stdout. The run "
            "keeps its own events.jsonl in any case."
        ),
    )


class Jsonlines:
    """Writes each event when it comes, advances of phases included, which the run's log leaves out.

    ASCII only: what is in an event cannot steer a terminal, nor forge a line.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._open = ExitStack()
        self._stream: TextIO = sys.stdout

    def __enter__(self) -> Jsonlines:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._open.enter_context(self._path.open("a", encoding="ascii"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def report(self, event: Event) -> None:
        """Write the event's line, at once."""
        self._stream.write(encode_json(event.to_json()) + "\n")
        self._stream.flush()


def build(options: JsonlinesOptions, folder: RunFolder) -> Reporter:
    """The reporter."""
    to_stdout = options.path == STDOUT
    return Jsonlines(None if to_stdout else folder.path / Path(options.path).expanduser())


JSONLINES = ReporterOffer(
    name="jsonlines",
    summary="every event as a JSON line, to a file or to stdout, for other tools",
    config=JsonlinesOptions,
    build=build,
)
