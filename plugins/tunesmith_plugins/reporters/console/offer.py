"""The offer: options of ``[[reporters]] use = "console"``, and which of its two forms fits."""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import Field

from tunesmith.contracts import Reporter
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder
from tunesmith.terminal import lively


class ConsoleOptions(Options):
    """How a run is shown on stderr."""

    progress: Literal["auto", "bar", "plain", "off"] = Field(
        "auto",
        description=(
            "bar: a moving display; plain: lines, for logs; off: warnings alone; auto: a bar "
            "where stderr is a capable terminal and neither CI nor NO_COLOR is set."
        ),
    )
    every: int | None = Field(
        None, ge=1, description="Steps from one plain line to the next; unset: about 20 in all."
    )


def build(options: ConsoleOptions, folder: RunFolder) -> Reporter:
    """The form of display that the options and the terminal allow."""
    from tunesmith_plugins.reporters.console.plain import Plain

    moving = options.progress == "auto" and lively(sys.stderr)
    if options.progress == "bar" or moving:
        from tunesmith_plugins.reporters.console.live import Moving

        return Moving(sys.stderr)
    return Plain(sys.stderr, every=options.every, warnings_only=options.progress == "off")


CONSOLE = ReporterOffer(
    name="console",
    summary="progress on the terminal: a moving display, or plain lines in logs",
    config=ConsoleOptions,
    build=build,
    by_default=True,
)
