"""Metrics of the server, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
Counts = Callable[[], Iterable[tuple[str, int, int]]]
"""Returns the name of each model with the numbers of its answers that run and that wait."""


class Metrics:
    """Counters and times of one server."""

    def __init__(self, counts: Counts) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Answers(counts))
        self.requests = Counter(
            "tunesmith_requests",
            "Requests by path and status of the answer.",
            ["path", "status"],
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "tunesmith_prompt_tokens", "Tokens of prompts.", ["model"], registry=self.registry
        )
        self.generated_tokens = Counter(
            "tunesmith_generated_tokens", "Generated tokens.", ["model"], registry=self.registry
        )
        self.cancelled = Counter(
            "tunesmith_cancelled_answers",
            "Answers that were given up: the client left, or the time was over.",
            ["model"],
            registry=self.registry,
        )
        self.first_token = Histogram(
            "tunesmith_time_to_first_token_seconds",
            "Time from a request's arrival to its first token.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "tunesmith_answer_seconds",
            "Time from a request's arrival to the end of an answer.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.open_requests = Gauge(
            "tunesmith_open_requests", "Requests being answered.", registry=self.registry
        )

    def to_text(self) -> bytes:
        """Return all metrics."""
        text: bytes = generate_latest(self.registry)
        return text


class _Answers(Collector):
    """The answers that run and that wait, at the time of asking."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[GaugeMetricFamily]:
        running = GaugeMetricFamily(
            "tunesmith_running_answers", "Answers that are being generated.", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "tunesmith_waiting_answers", "Answers that wait for a slot.", labels=["model"]
        )
        for model, num_running, num_waiting in self._counts():
            running.add_metric([model], num_running)
            waiting.add_metric([model], num_waiting)
        return [running, waiting]
