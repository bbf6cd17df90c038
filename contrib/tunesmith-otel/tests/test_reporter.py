"""Spans and metrics are read back from a file, from memory, and as a collector gets them."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tunesmith
from tunesmith.events import Event, RunFinished, RunStarted, StepFinished
from tunesmith.storage import RunFolder
from tunesmith.testing import full_disk, sample_event, sample_run, send_events
from tunesmith_otel import reporter, tracker
from tunesmith_otel.reporter import OtelOptions

README = Path(__file__).parents[1] / "README.md"
SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b"


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the spans in a file, and the last value of each metric."""
    spans, values = [], {}
    for line in path.read_text().splitlines():
        found = json.loads(line)
        if "context" in found:
            spans.append(found)
        for group in found.get("resource_metrics", ()):
            for metric in group["scope_metrics"][0]["metrics"]:
                values[metric["name"]] = metric["data"]["data_points"][-1]["value"]
    return spans, values


def send(file: str, run: Path, events: Iterable[Event], wait: float = 5) -> list[str]:
    """Send events like a run does; return the problems that became warnings."""
    run.mkdir(exist_ok=True)
    return send_events(
        lambda: reporter.build(OtelOptions(file=file, wait=wait), RunFolder(run)), events
    )


def test_the_readme_runs_and_its_spans_are_read_back(readme_run_file: Path, tmp_path: Path) -> None:
    options = {"technique.max_steps": 4, "baselines.use": ["majority"]}
    run = tunesmith.run(readme_run_file, set=options)
    assert not [f.message for f in run.report.findings if "otel" in f.message]
    spans, values = read(tmp_path / "spans.jsonl")
    (root,) = [span for span in spans if span["parent_id"] is None]
    verdict = run.report.verdict
    assert root["attributes"]["tunesmith.verdict"] == verdict["word"]
    assert root["attributes"]["option.technique.use"] == "lora"
    below = {span["name"] for span in spans if span["parent_id"] == root["context"]["span_id"]}
    assert below >= {"preparation", "baselines", "training", "evaluation"}
    assert all(root["start_time"] <= s["start_time"] <= s["end_time"] for s in spans[-3:])
    assert values["tunesmith.train/loss"] == run.report.steps_of("")[-1].loss
    assert verdict["comparisons"]
    for name, found in verdict["comparisons"].items():
        prefix = f"paired/{verdict['metric']}/tuned-minus-{name}"
        for part in ("difference", "low", "high", "n"):
            assert values[f"tunesmith.{prefix}/{part}"] == found[part]
            assert root["attributes"][f"{prefix}/{part}"] == found[part]


def test_a_resumed_run_has_the_same_trace(tmp_path: Path) -> None:
    plan = {"url": f"https://x/?t={SECRET}", **{f"option{n}": n for n in range(300)}}
    started = sample_event(RunStarted, plan=plan)
    path = tmp_path / "spans.jsonl"
    state = random.getstate()
    assert not send(str(path), tmp_path / "run", [started, sample_event(StepFinished)])
    again = [replace(started, resumed=True), sample_event(RunFinished, status="failed")]
    assert not send(str(path), tmp_path / "run", again)
    assert random.getstate() == state, "it draws random numbers of the run"
    (first, second), _ = read(path)
    assert first["context"]["trace_id"] == second["context"]["trace_id"]
    assert first["context"]["span_id"] != second["context"]["span_id"]
    assert first["attributes"]["option.option299"] == "299"
    assert second["status"]["status_code"] == "ERROR" and SECRET not in path.read_text()


def test_the_spans_are_those_of_the_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = InMemorySpanExporter()

    def exporters(*_: object) -> tuple[SpanExporter, ConsoleMetricExporter]:
        return memory, ConsoleMetricExporter(out=(tmp_path / "metrics").open("w"))

    monkeypatch.setattr(tracker, "open_exporters", exporters)
    assert not send("", tmp_path / "run", sample_run())
    spans = memory.get_finished_spans()
    run = spans[-1]
    assert all(s.parent is not None and s.parent.span_id == run.context.span_id for s in spans[:-1])
    (part,) = [span for span in spans if span.name == "baselines"]
    assert part.end_time and part.start_time
    assert part.end_time - part.start_time == 30 * 10**9


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Yield the address of a local collector, and the requests that it got."""
    requests: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_a_collector_gets_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (address, requests):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        assert not send("", tmp_path / "run", sample_run())
    assert {path for path, _ in requests} == {"/v1/traces", "/v1/metrics"}
    traces = [ExportTraceServiceRequest.FromString(b) for p, b in requests if p == "/v1/traces"]
    names = [t.resource_spans[0].scope_spans[0].spans[0].name for t in traces]
    assert "baselines" in names and names[-1] == "sample"


def test_a_collector_that_is_not_there_becomes_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    problems = send("", tmp_path / "run", sample_run())
    assert problems and "could not be exported" in problems[0]


def test_a_collector_that_hangs_does_not_delay_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        before = time.perf_counter()
        problems = send("", tmp_path / "run", sample_run(steps=100), wait=1)
        assert "does not respond" in problems[-1] and time.perf_counter() - before < 4


def test_a_full_disk_becomes_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    with full_disk(2_000):
        problems = send(str(path), tmp_path / "run", sample_run())
    assert "File too large" in problems[0]
    assert json.loads(path.read_text().splitlines()[0])["context"]
