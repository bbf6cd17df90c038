"""Offer the ``console`` reporter, which is either the live display or plain lines."""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import Field

from tunesmith.contracts import Reporter
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder
from tunesmith.terminal import supports_live_display


class ConsoleOptions(Options):
    """Options of ``console``: the form of the progress display on stderr."""

    progress: Literal["auto", "bar", "plain", "off"] = Field(
        "auto",
        description=(
            "bar: a live display; plain: one line per event, for logs; off: only warnings and "
            "errors; auto: bar if stderr is a capable terminal and neither CI nor NO_COLOR is "
            "set, otherwise plain."
        ),
    )
    every: int | None = Field(
        None,
        ge=1,
        description="Print a plain line every N training steps. Unset: about 20 lines in total.",
    )


def build(options: ConsoleOptions, folder: RunFolder) -> Reporter:
    """Build the live display or the plain reporter, depending on options and terminal."""
    from tunesmith_plugins.reporters.console.plain import PlainReporter

    auto_live = options.progress == "auto" and supports_live_display(sys.stderr)
    if options.progress == "bar" or auto_live:
        from tunesmith_plugins.reporters.console.live import LiveReporter

        return LiveReporter(sys.stderr, folder.events)
    warnings_only = options.progress == "off"
    return PlainReporter(
        sys.stderr, folder.events, every=options.every, warnings_only=warnings_only
    )


CONSOLE = ReporterOffer(
    name="console",
    summary="progress on the terminal: a live display, or plain lines in logs",
    config=ConsoleOptions,
    build=build,
    by_default=True,
    shows_progress=True,
)
