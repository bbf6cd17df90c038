"""Reporter ``otel``: spans and metrics of a run for OpenTelemetry."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(__name__, tunesmith_reporters=".reporter:OTEL")
