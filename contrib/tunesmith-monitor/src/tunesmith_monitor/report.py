"""The report of a monitor: sentences for the terminal and the page, JSON, and the exit code."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tunesmith.events import JSON
from tunesmith.statistics import mean_interval
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_estimate, format_share
from tunesmith_evidence.report.html import build_environment
from tunesmith_monitor.features import LANGUAGE, LENGTH, UPPER, WORDS
from tunesmith_monitor.monitor import Monitor
from tunesmith_monitor.watch import Alarm, Watch

LOOK, PAGE = 10, 11
"""Exit codes: the inputs changed; answers became worse."""
BLIND = (
    "Confidence cannot see changed answers: if a question now has a different right answer, "
    "only audited answers show it."
)


def exit_code(watch: Watch) -> int:
    """Return the exit code for a scheduler, which depends on the open alarms."""
    if any(alarm.is_page for alarm in watch.alarms):
        return PAGE
    return LOOK if watch.alarms else 0


def summarize(watch: Watch) -> str:
    """Return OK, LOOK or PAGE, with a sentence that explains it."""
    match exit_code(watch):
        case 0:
            return "OK: nothing changed beyond what the budget of false alarms explains"
        case code if code == LOOK:
            return "LOOK: requests changed. This does not show that answers became worse"
    return "PAGE: answers became worse"


def describe(alarm: Alarm) -> str:
    """Describe an alarm in a sentence."""
    before, now = alarm.before, alarm.now
    match alarm.what:
        case "length":
            before, now = math.expm1(before), math.expm1(now)
            text = f"length: {now:,.0f} characters, before {before:,.0f} (geometric mean)"
        case "language":
            text = f"language: {format_share(now)} of requests are in languages that training rows "
            text += f"rarely have, before {format_share(before)}"
        case "unknown words":
            text = f"unknown words: {format_share(now)}, before {format_share(before)}"
        case "typing":
            text = f"typing style: {format_share(now)} capital letters, before "
            text += f"{format_share(before)}; or other punctuation"
        case "confidence":
            text = f"estimated share of right answers: {format_share(now)}, before "
            text += format_share(before)
        case "labels":
            text = f"audited answers: {format_share(now)} of the latest are right; the evidence is "
            text += f"that fewer than {format_share(before)} are"
        case _:
            text = f"topics: the mean request moved by {now:.1f} standard deviations"
    if alarm.words:
        text += f"; new: {', '.join(alarm.words)}"
    unit = "audited answer" if alarm.layer == "labels" else "request"
    return f"{text} (at {unit} {alarm.request:,})"


def describe_layers(monitor: Monitor) -> list[tuple[str, str]]:
    """Return the name and the state of each layer."""
    watch = monitor.watch
    sizes = " and ".join(str(test.size) for test in watch.inputs.tests)
    parts = [("inputs", f"{format_count(watch.requests, 'request')}, in windows of {sizes}")]
    if watch.confidence is None:
        text = "off: the run has no evaluator `review`, or the reference has no confidences"
    elif not watch.confidence.rows:
        text = "no confidences in the traffic yet"
    else:
        mean = float(np.mean(watch.confidence.rows))
        before = float(watch.confidence.tests[0].reference.mean[0])
        text = f"about {format_share(mean)} right, before {format_share(before)}"
    parts.append(("confidence", text))
    if watch.labels is None:
        text = "off: the run has no metric that is a share of right answers"
    elif not watch.outcomes:
        text = "no audited answers yet"
    else:
        found = mean_interval(watch.outcomes)
        share = format_estimate(found.value, found.low, found.high)
        text = f"{share} of the latest {len(watch.outcomes):,} are right; alarm below "
        text += format_share(watch.labels.floor)
    return [*parts, ("labels", text)]


def state_budget(monitor: Monitor) -> str:
    """State the budget of false alarms."""
    return (
        f"Budget: at most one false alarm per {monitor.options.run_length:,} requests on average, "
        "over all layers: half for inputs, a quarter each for confidence and labels."
    )


def to_json(monitor: Monitor) -> JSON:
    """Return the report as JSON (schema ``tunesmith.monitor/1``)."""
    watch = monitor.watch
    return {
        "schema": "tunesmith.monitor/1",
        "run": str(monitor.run),
        "exit_code": exit_code(watch),
        "requests": watch.requests,
        "audited": watch.audited,
        "unusable_lines": watch.unusable,
        "run_length": monitor.options.run_length,
        "alarms": [{**asdict(alarm), "text": describe(alarm)} for alarm in watch.alarms],
        "layers": dict(describe_layers(monitor)),
        "label_next": [{"id": id_, "text": text} for id_, text in watch.choose_rows_to_label()],
        "limits": BLIND,
    }


def write_page(monitor: Monitor, path: Path) -> None:
    """Write the report as a page that contains everything it shows."""
    watch = monitor.watch
    text = build_environment("tunesmith_monitor").get_template("page.html").render(
        run=monitor.run.name,
        summary=summarize(watch),
        alarms=[(alarm, describe(alarm)) for alarm in watch.alarms],
        layers=describe_layers(monitor),
        features=list_features(watch),
        rows=watch.choose_rows_to_label(),
        budget=state_budget(monitor),
        blind=BLIND,
        unusable=watch.unusable,
    )  # fmt: skip
    write_atomic(path, text)


def list_features(watch: Watch) -> list[tuple[str, str, str]]:
    """Return the name of each plain feature, with its mean before and now."""
    if not watch.inputs.rows:
        return []
    first = watch.space.directions.shape[1]
    before_F = watch.inputs.tests[-1].reference.mean[first:]
    now_F = np.mean(watch.inputs.rows, axis=0)[first:]
    shares = {"in new languages": LANGUAGE, "unknown words": WORDS, "capital letters": UPPER}
    length = [f"{math.expm1(mean[LENGTH]):,.0f}" for mean in (before_F, now_F)]
    return [
        ("characters (geometric mean)", length[0], length[1]),
        *(
            (name, format_share(float(before_F[column])), format_share(float(now_F[column])))
            for name, column in shares.items()
        ),
    ]
