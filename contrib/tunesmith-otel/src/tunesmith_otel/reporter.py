"""Send a run to OpenTelemetry: a span for the run and each phase, and its values as metrics."""

from __future__ import annotations

import time
from functools import partial

from pydantic import Field

from tunesmith.events import Event, PartEnded, PhaseEnded
from tunesmith.offers import ReporterOffer
from tunesmith.options import DataPath
from tunesmith.storage import RunFolder
from tunesmith_evidence.tracking import TrackerOptions, TrackerReporter
from tunesmith_otel.tracker import OtelTracker


class OtelOptions(TrackerOptions):
    """Options of ``[[reporters]] use = "otel"``."""

    file: DataPath = Field(
        "",
        description="File for spans and metrics as JSON Lines. Empty: they are sent to a collector "
        "over OTLP/HTTP, see the environment variable OTEL_EXPORTER_OTLP_ENDPOINT.",
    )


class OtelReporter(TrackerReporter):
    """Also reports the phases of a run, as spans."""

    def __init__(self, tracker: OtelTracker, options: OtelOptions, folder: RunFolder) -> None:
        super().__init__(tracker, options, folder)
        self._spans = tracker

    def report(self, event: Event) -> None:
        """Pass the event on to the thread."""
        if isinstance(event, (PartEnded, PhaseEnded)):
            name = event.part if isinstance(event, PartEnded) else event.phase
            self.call(partial(self._spans.add_span, name, event.seconds, time.time_ns()))
        super().report(event)


def build(options: OtelOptions, folder: RunFolder) -> OtelReporter:
    """Create the reporter from its options."""
    return OtelReporter(OtelTracker(options.file), options, folder)


OTEL = ReporterOffer(
    name="otel",
    summary="a span for each phase, and losses and results as metrics, to OpenTelemetry",
    config=OtelOptions,
    build=build,
)
