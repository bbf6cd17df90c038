"""Print as text what only the report of a run has: training, forecast and regressions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tunesmith.cli import render
from tunesmith.events import TUNED, StepFinished
from tunesmith.execution.report import Report
from tunesmith.terminal import supports_unicode
from tunesmith.text import format_bytes, format_count, format_duration, one_line
from tunesmith_evidence.regressions import Regression
from tunesmith_plugins.commands.runs.curve import plot


def show_training(report: Report) -> None:
    """Print a summary line and a loss curve for each stage."""
    for stage, started in report.training_started.items():
        steps = [event for (name, _), event in sorted(report.steps.items()) if name == stage]
        seconds = sum(step.seconds for step in steps)
        tokens = sum(step.tokens for step in steps)
        peak = max((step.memory_bytes for step in steps), default=0)
        parts = [
            f"{started.technique}{f' ({stage})' if stage else ''}: step {len(steps)}"
            f" of {started.steps}",
            f"{started.trainable_parameters:,} of {started.parameters:,} parameters",
            format_duration(seconds),
            f"{tokens / seconds:,.0f} tokens/s" if seconds else "",
            f"peak memory {format_bytes(peak, binary=True)}" if peak else "",
        ]
        render.print_text()
        render.print_text(", ".join(filter(None, parts)))
        if len(steps) > 1:
            _show_curve(report, stage, steps)
        _show_monitored(report, stage)


def _show_curve(report: Report, stage: str, steps: Sequence[StepFinished]) -> None:
    """Print the loss of the steps, and in the same curve the loss on dev rows."""
    first, last = steps[0].step, steps[-1].step
    mark, dev_mark = ("•", "○") if supports_unicode(sys.stdout) else ("*", "o")
    dev = [
        ((step - first) / (last - first), event.metrics["dev_loss"])
        for (name, step), event in sorted(report.monitored.items())
        if name == stage and "dev_loss" in event.metrics and first <= step <= last
    ]
    legend = f"; {dev_mark} on dev rows" if dev else ""
    render.print_text(f"loss, steps {first} to {last}{legend}")
    losses = [step.loss for step in steps]
    for line in plot(losses, mark=mark, others=dev, other_mark=dev_mark):
        render.print_text(f"  {line}", style="dim")


def _show_monitored(report: Report, stage: str) -> None:
    """Print a table of the evaluations on dev records during the training of a stage."""
    events = [event for (name, _), event in sorted(report.monitored.items()) if name == stage]
    if not events:
        return
    names = list(dict.fromkeys(name for event in events for name in event.metrics))
    rows = [
        [f"{event.step}{' best' if event.best else ''}"]
        + [f"{event.metrics[name]:.3f}" if name in event.metrics else "" for name in names]
        for event in events
    ]
    render.print_table(["step", *map(one_line, names)], rows, right=range(1, len(names) + 1))


def show_forecast(report: Report) -> None:
    """Print predicted memory and time, with the measured values if training has finished."""
    forecast, actual = report.forecast, report.to_json()["forecast"].get("actual")
    if forecast is None:
        return
    low, high = (format_bytes(forecast.memory[end], binary=True) for end in ("low", "high"))
    text = f"forecast: peak memory {low} to {high}"
    if forecast.seconds:
        shortest, longest = (format_duration(seconds) for seconds in forecast.seconds)
        text += f", training time {shortest} to {longest}"
    if actual:
        peak = format_bytes(actual["peak_memory_bytes"], binary=True)
        time = format_duration(actual["seconds"])
        ratio = actual["memory_ratio"]
        text += f"; measured: {peak} ({ratio:.2f} times the expected peak), {time}"
    render.print_text(text, style="dim")


def show_regressions(regressions: list[Regression], rival: str, limit: int) -> None:
    """Print a table of the first rows that the rival scored better on."""
    if not regressions:
        return
    render.print_text()
    title = f"regressions: {format_count(len(regressions), 'row')} that {rival} did better on"
    render.print_text(title, style="strong")
    rows = [
        [one_line(r.source), one_line(r.expected), one_line(r.rival), one_line(r.tuned)]
        for r in regressions[:limit]
    ]
    render.print_table(["row", "expected", rival, TUNED], rows)
    if len(regressions) > limit:
        count = len(regressions)
        render.print_text(f"{count - limit} more rows: --failures {count} shows all")
