"""Count and time requests, and write the metrics in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
Counts = Callable[[], Iterable[tuple[str, int, int]]]
"""Returns the name of each model, with its numbers of running and waiting answers."""


class Metrics:
    """The counters and histograms of a server."""

    def __init__(self, counts: Counts) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Answers(counts))
        count = partial(Counter, labelnames=["model"], registry=self.registry)
        time = partial(Histogram, labelnames=["model"], buckets=SECONDS, registry=self.registry)
        self.requests = count(
            "tunesmith_requests",
            "Requests by path and response status.",
            labelnames=["path", "status"],
        )
        self.prompt_tokens = count("tunesmith_prompt_tokens", "Prompt tokens.")
        self.generated_tokens = count("tunesmith_generated_tokens", "Generated tokens.")
        self.cancelled = count(
            "tunesmith_cancelled_answers",
            "Answers canceled because the client disconnected or the time limit passed.",
        )
        self.first_token = time(
            "tunesmith_time_to_first_token_seconds",
            "Time from a request's arrival to its first token.",
        )
        self.duration = time(
            "tunesmith_answer_seconds", "Time from a request's arrival to the end of an answer."
        )
        self.observations = count(
            "tunesmith_observations",
            "Answers by extension and outcome: observed, failed, muted, or dropped (queue full).",
            labelnames=["extension", "outcome"],
        )
        self.open_requests = Gauge(
            "tunesmith_open_requests", "Requests being answered.", registry=self.registry
        )

    def to_text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        text: bytes = generate_latest(self.registry)
        return text


class _Answers(Collector):
    """Collects the numbers of running and waiting answers when Prometheus asks."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[GaugeMetricFamily]:
        running = GaugeMetricFamily(
            "tunesmith_running_answers", "Answers being generated.", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "tunesmith_waiting_answers", "Answers waiting for a slot.", labels=["model"]
        )
        for model, num_running, num_waiting in self._counts():
            running.add_metric([model], num_running)
            waiting.add_metric([model], num_waiting)
        return [running, waiting]
