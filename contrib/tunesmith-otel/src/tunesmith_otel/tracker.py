"""Export the spans and metrics of one run, in the thread of the reporter."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Span, Status, StatusCode, Tracer, set_span_in_context

from tunesmith.errors import EnvironmentProblem
from tunesmith_evidence.tracking import TrackedResults, TrackedRun

SECONDS_BETWEEN = 10.0
"""Seconds between two exports of the metrics; only the latest value of each is exported."""
MAX_ATTRIBUTES = 1_000
"""Most attributes of a span: options and results."""


class RunSpans:
    """The span of a run, its phases below it, and its metrics."""

    def __init__(
        self, run: TrackedRun, spans: SpanExporter, metrics: MetricExporter, started: int
    ) -> None:
        resource = Resource.create({"service.name": "tunesmith", "tunesmith.run": run.id})
        self._exporter = metrics
        self._reader = InMemoryMetricReader()
        meters = MeterProvider([self._reader], resource=resource, shutdown_on_exit=False)
        self._meter: Meter = meters.get_meter("tunesmith")
        self._exported = time.monotonic()
        provider = TracerProvider(
            resource=resource,
            id_generator=RunIds(run.id),
            span_limits=SpanLimits(max_span_attributes=MAX_ATTRIBUTES),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(StrictProcessor(spans))
        self._tracer: Tracer = provider.get_tracer("tunesmith")
        options = {f"option.{key}": value for key, value in run.options.items()}
        attributes = {"tunesmith.run": run.id, **options}
        self.run: Span = self._tracer.start_span(
            run.name, attributes=attributes, start_time=started
        )

    def add(self, name: str, started: int, ended: int) -> None:
        """Export the span of a phase that has ended."""
        parent = set_span_in_context(self.run)
        self._tracer.start_span(name, parent, start_time=started).end(ended)

    def measure(self, values: Mapping[str, float], *, at_once: bool = False) -> None:
        """Set the metrics to these values, and export them if it is time."""
        for name, value in values.items():
            plain = re.sub(r"[^A-Za-z0-9_./-]", "_", name)
            self._meter.create_gauge(f"tunesmith.{plain}").set(value)
        if at_once or time.monotonic() - self._exported >= SECONDS_BETWEEN:
            data = self._reader.get_metrics_data()
            if data and self._exporter.export(data) is not MetricExportResult.SUCCESS:
                raise EnvironmentProblem("the metrics could not be exported")
            self._exported = time.monotonic()


class OtelTracker:
    """Exports each span when it ends, and the metrics every few seconds and at the end."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open = ExitStack()
        self._spans: RunSpans | None = None

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        """Start the span of the run. A resume adds another span to the same trace."""
        spans, metrics = open_exporters(self._file, self._open)
        self._spans = RunSpans(run, spans, metrics, time.time_ns())
        return {}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Set the metrics to the values of this step."""
        if self._spans:
            self._spans.measure({**values, "step": step})

    def add_span(self, name: str, seconds: float, ended: int) -> None:
        """Add the span of a phase that has ended at this time, in nanoseconds."""
        if self._spans:
            self._spans.add(name, ended - int(seconds * 1e9), ended)

    def finish(self, results: TrackedResults) -> None:
        """Export the results as metrics, and as attributes of the span of the run."""
        if self._spans:
            self._spans.measure(results.values, at_once=True)
            tags = {f"tunesmith.{name}": text for name, text in results.tags.items()}
            self._spans.run.set_attributes({**results.values, **tags})
            if results.status == "failed":
                self._spans.run.set_status(Status(StatusCode.ERROR))

    def close(self) -> None:
        """Export the span of the run, also if it was killed by an error."""
        with self._open:
            if self._spans:
                self._spans.run.end()


class RunIds(IdGenerator):  # type: ignore[misc,unused-ignore]
    """Gives every start of a run the same trace, and draws no random numbers of the run."""

    def __init__(self, run: str) -> None:
        self._trace = int.from_bytes(hashlib.sha256(run.encode()).digest()[:16], "big")

    def generate_span_id(self) -> int:
        """Return a new id."""
        return secrets.randbits(64) or 1

    def generate_trace_id(self) -> int:
        """Return the id that belongs to the run."""
        return self._trace


class StrictProcessor(SpanProcessor):  # type: ignore[misc,unused-ignore]
    """Exports each span at once, and raises if that fails; the SDK's processors hide failures."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def on_end(self, span: ReadableSpan) -> None:
        """Export the span."""
        if self._exporter.export((span,)) is not SpanExportResult.SUCCESS:
            raise EnvironmentProblem("a span could not be exported")


def open_exporters(file: str, opened: ExitStack) -> tuple[SpanExporter, MetricExporter]:
    """Return exporters that append to a file, or send to the collector of the environment."""
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        stream = opened.enter_context(Path(file).open("a", encoding="utf-8"))  # noqa: SIM115
        return (
            ConsoleSpanExporter(out=stream, formatter=lambda span: f"{span.to_json(None)}\n"),
            ConsoleMetricExporter(out=stream, formatter=lambda data: f"{data.to_json(None)}\n"),
        )
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    spans, metrics = OTLPSpanExporter(), OTLPMetricExporter()
    opened.callback(spans.shutdown)
    opened.callback(metrics.shutdown)
    return spans, metrics
