"""Format events as text for the terminal, for both the live display and the plain lines."""

from __future__ import annotations

import math

from tunesmith.events import (
    BaselineChosen,
    CompletionSampled,
    DataLoaded,
    FindingReported,
    Forecast,
    GateChecked,
    Measured,
    Monitored,
    RunFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.text import format_bytes, format_count, format_duration, one_line, redact
from tunesmith_evidence.number_text import (
    format_duration_range,
    format_interval,
    format_number,
    format_rows,
)
from tunesmith_evidence.report.facts import describe_data, describe_gate, describe_processes
from tunesmith_plugins.reporters.console.progress import RunProgress, TrainingProgress

STEP_METRICS = 3
"""Maximum number of the technique's own metrics to show with a step."""
TRAINING = "training"
MIN_PHASE_SECONDS = 1.0
"""Shorter phases without a metric end without a line."""
FINDING_LABELS = {"info": "note", "warning": "warning", "error": "error"}


def format_clock(seconds: float) -> str:
    """Format a duration in whole seconds: "8 s", "1 min 05 s"."""
    whole = round(seconds)
    return f"{whole} s" if whole < 10 else format_duration(whole)


def format_time_left(seconds: float) -> str:
    """Format a remaining time, such as "40 s left", or "" if it is unknown.

    Long times are rounded more coarsely, so that the display does not change all the time.
    """
    if not math.isfinite(seconds):
        return ""
    unit = 1 if seconds < 60 else 5 if seconds < 600 else 60
    return f"{format_clock(max(unit, round(seconds / unit) * unit))} left"


def format_span(low: float, high: float) -> str:
    """Format a range of predicted seconds in one unit: "6 to 12 min", "up to 40 s".

    The result is empty if the range is unknown. Predictions are rough, so the unit is coarse. The
    shortest time is rounded down, and the longest time is rounded up.
    """
    if not math.isfinite(high):
        return ""
    unit, name, step = (
        (1, "s", 5) if high < 90 else (60, "min", 1) if high < 7200 else (3600, "h", 1)
    )
    first, last = math.floor(low / unit / step) * step, math.ceil(high / unit / step) * step
    return f"{first} to {last} {name}" if first else f"up to {last} {name}"


def format_run_left(low: float, high: float) -> str:
    """Format the remaining time of a run as "about 4 to 6 min left", or "" if it is unknown."""
    span = format_span(low, high)
    about = "" if span.startswith("up to") else "about "
    return f"{about}{span} left" if span else ""


def format_forecast(event: Forecast) -> str:
    """Format the predicted memory, and the time of training or of each part of the run."""
    sizes = (event.memory[name] for name in ("low", "expected", "high"))
    low, expected, high = (format_bytes(size) for size in sizes)
    parts = [f"peak memory {expected} ({low} to {high})"]
    if event.parts:
        left = format_run_left(*map(sum, zip(*event.parts.values(), strict=True)))
        times = [f"{part} {format_span(*seconds)}" for part, seconds in event.parts.items()]
        parts.append(f"{left}: {', '.join(times)}")
    elif event.seconds:
        parts.append(f"training time {format_duration_range(*event.seconds)}")
    return f"forecast: {', '.join(parts)}"


def format_data(event: DataLoaded) -> str:
    """Format the number of rows in each split, and the number of skipped rows."""
    count = sum(event.skipped.values())
    skipped = f", {format_count(count, 'row')} skipped" if count else ""
    return f"{describe_data(event)}{skipped}"


def format_training_start(event: TrainingStarted) -> str:
    """Format the stage, technique, device, precision, and the trained parameters."""
    share = f"{event.trainable_parameters:,} of {event.parameters:,} parameters"
    share += _format_targets(event)
    resumed = f", from step {event.first_step}" if event.first_step else ""
    where = event.device
    if processes := describe_processes(event):
        where += f" ({processes})"
    training = f"{event.technique} on {where} in {event.precision}, {share}{resumed}"
    return f"{format_label(TRAINING, event.stage)}: {training}"


def _format_targets(event: TrainingStarted) -> str:
    """Format the modules with adapters, and the experts without, or "" if nothing is adapted."""
    count, names = event.details.get("adapted_modules"), event.details.get("targets")
    if not isinstance(count, int) or not isinstance(names, list):
        return ""
    text = f" in {format_count(count, 'module')} ({one_line(', '.join(map(str, names)), 100)})"
    experts = event.details.get("not_adapted")
    if isinstance(experts, list) and experts:
        text += f"; not adapted: {one_line(', '.join(map(str, experts)), 60)}"
    return text


def format_step_metrics(progress: TrainingProgress) -> list[str]:
    """Format the metrics of the last step: the technique's metrics, the speed, and the memory."""
    step = progress.last
    if step is None:
        return []
    metrics = [
        f"{one_line(name, 24)} {format_number(value)}"
        for name, value in list(step.metrics.items())[:STEP_METRICS]
    ]
    speed = f"{progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second else ""
    memory = format_bytes(step.memory_bytes) if step.memory_bytes > 0 else ""
    return [text for text in (*metrics, speed, memory) if text]


def format_training_end(event: TrainingFinished, progress: TrainingProgress) -> str:
    """Format the number of steps, the loss of the first step, and the smoothed loss at the end."""
    steps = format_count(event.steps, "step")
    if progress.last is None:
        return steps
    return f"{steps}, loss {format_number(progress.first_loss)} -> {format_number(progress.loss)}"


def format_measurement(event: Measured) -> str:
    """Format a metric with its 95 % interval, leakage-free score and number of cut answers."""
    text = f"{one_line(event.metric, 40)} {format_number(event.value)} "
    text += format_interval(event.low, event.high)
    if event.units and event.units < event.n:
        text += f" on {format_rows(event.n, event.units, 'row')}"
    if event.leakage_free:
        text += f", leakage-free {format_number(event.leakage_free['value'])}"
    return f"{text}, {event.cut:,} cut off" if event.cut else text


def ends_run(event: FindingReported) -> bool:
    """Return True for an error that ends the run. The command line prints it instead."""
    return event.level == "error" and not event.test_rows


def format_choice(event: BaselineChosen) -> str:
    """Format a baseline's chosen variant with its validation score, or why it was skipped."""
    name = one_line(event.baseline, 40)
    if event.skipped:
        return f"{name}: not measured: {one_line(event.skipped, 300)}"
    if event.validation_score is None:
        return ""
    variant = f"{one_line(event.variant, 60)}, " if event.variant else ""
    metric = one_line(event.metric, 40)
    rows = "training rows, out of fold" if event.folds else "validation rows"
    score = f"{format_number(event.validation_score)} on {event.validation_rows} {rows}"
    return f"{name}: {variant}{metric} {score}"


def format_finding(event: FindingReported) -> str:
    """Format a finding as ``warning: source: message``."""
    source = f"{one_line(event.source)}: " if event.source else ""
    message = one_line(redact(event.text), 600)
    return f"{FINDING_LABELS.get(event.level, 'note')}: {source}{message}"


def format_monitor(event: Monitored) -> str:
    """Format the metrics of an evaluation during training."""
    metrics = [
        f"{one_line(name.replace('_', ' '), 24)} {format_number(value)}"
        for name, value in event.metrics.items()
    ]
    parts = [f"step {event.step}", *metrics, *(["best so far"] if event.best else [])]
    return f"{format_label('monitor', event.stage)}: {'  '.join(parts)}"


def format_sample(event: CompletionSampled) -> str:
    """Format a sampled completion with its prompt and reward, on one line."""
    exchange = f"{one_line(redact(event.prompt), 60)} -> {one_line(redact(event.completion), 100)}"
    label = format_label("sample", event.stage)
    return f"{label}: step {event.step}, reward {format_number(event.reward)}: {exchange}"


def format_gate(event: GateChecked) -> str:
    """Format the result of a check between stages, with its reason."""
    label = format_label("gate", event.stage)
    message = one_line(redact(event.message), 500)
    return f"{label}: {one_line(event.gate, 40)}: {describe_gate(event)[0]}; {message}"


def format_label(name: str, stage: str) -> str:
    """Return the name, followed by the stage if there is one."""
    return f"{name} {stage}".strip()


def format_run_end(event: RunFinished, run: RunProgress) -> str:
    """Format how a run ended, with its duration and the predicted duration.

    A run that only measures baselines stops before training, and counts as finished.
    """
    stopped_before_training = not run.trains and event.status == "stopped" and event.exit_code < 128
    if event.status == "ok" or stopped_before_training:
        low, high = run.forecast
        forecast = f" (forecast: {format_span(low, high)})" if math.isfinite(high) else ""
        return f"finished in {format_duration(event.seconds)}{forecast}"
    return f"{event.status} after {format_duration(event.seconds)}"
