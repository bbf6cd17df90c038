"""Print the results of a run as text: scores, verdict, training, regressions, next commands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from tunesmith.cli import render
from tunesmith.events import Measured
from tunesmith.execution.regressions import Regression
from tunesmith.execution.report import Report
from tunesmith.execution.verdict import TUNED
from tunesmith.terminal import plot, supports_unicode
from tunesmith.text import format_bytes, format_count, format_duration, one_line

OUTCOME_STYLES = {"better": "good", "worse": "bad"}


def show_scores(report: Report) -> None:
    """Print the table of scores, one line per metric and model."""
    rows = [
        [
            event.model,
            _metric_text(event, report.metric_label(event.evaluator, event.metric)),
            f"{event.value:.3f}",
            _interval_text(event),
            str(event.n),
        ]
        for event in sorted(report.measured.values(), key=_table_order(report))
    ]
    if rows:
        render.print_table(
            ["model", "metric", "value", "95 % interval", "n"], rows, right=(2, 3, 4)
        )


def show_verdict(report: Report) -> None:
    """Print the verdict's sentence."""
    verdict = report.finished.verdict if report.finished else {}
    if verdict:
        render.print_text()
        style = OUTCOME_STYLES.get(str(verdict.get("outcome")), "warning")
        render.print_paragraph(str(verdict.get("sentence", "")), style=style)


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
            render.print_text(f"loss, steps {steps[0].step} to {steps[-1].step}")
            for line in plot(
                [step.loss for step in steps], mark="•" if supports_unicode(sys.stdout) else "*"
            ):
                render.print_text(f"  {line}", style="dim")
        _show_monitored(report, stage)


def _show_monitored(report: Report, stage: str) -> None:
    """Print a table of the evaluations on held-out records during the training of a stage."""
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


def show_gates(report: Report) -> None:
    """Print the results of the gates that the technique checked during training."""
    for gate in report.gates.values():
        result = (
            "passed" if gate.passed else "not passed, accepted" if gate.accepted else "not passed"
        )
        style = "good" if gate.passed else "warning" if gate.accepted else "bad"
        render.print_text()
        text = f"gate {one_line(gate.stage)}, {one_line(gate.gate)}: {result}; "
        render.print_paragraph(text + one_line(gate.message, 1000), style=style)


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


def show_data(report: Report) -> None:
    """Print the number of rows, and the rows that could not be used by cause."""
    data = report.data
    if data is None:
        return
    rows = f"{format_count(data.train, 'training row')}, {data.heldout:,} held out for evaluation"
    source = f" ({one_line(data.description, 200)})" if data.description else ""
    render.print_text(f"data: {rows}{source}")
    for cause, count in data.left_out.items():
        first = next((e for e in data.examples if e.get("cause") == cause), {})
        where = f", first {one_line(str(first['where']))}" if "where" in first else ""
        render.print_text(f"  left out: {format_count(count, 'row')}, {one_line(cause)}{where}")


def show_paths(folder: Path, report: Report) -> None:
    """Print the paths of the run folder, the trained model and the report pages."""
    folder = folder.absolute()
    render.print_text()
    render.print_text(f"run folder: {folder}")
    trained = report.training_finished.get("")
    if trained is not None:
        render.print_text(f"{trained.format}: {folder / trained.artifact}")
    for page in find_report_pages(folder, report):
        render.print_text(f"report page: {page}")


def find_report_pages(folder: Path, report: Report) -> list[Path]:
    """Find the pages that the run's reporters wrote: by convention, their option ``path``."""
    reporters = report.started.plan.get("reporters", []) if report.started else []
    paths = (reporter.get("path") for reporter in reporters)
    pages = (folder / Path(path).expanduser() for path in paths if isinstance(path, str) and path)
    return [page for page in pages if page.suffix == ".html" and page.is_file()]


def show_next_commands(folder: Path, report: Report) -> None:
    """Print the commands that a user probably needs next."""
    run = shell_path(folder)
    commands = []
    if report.training_finished.get("") is not None:
        commands += [f"tunesmith chat {run} --compare base", f"tunesmith report {run}"]
    elif report.status in ("failed", "unfinished"):
        commands.append(f"tunesmith resume {run}")
    if commands:
        render.print_note("\nnext commands:")
    for command in commands:
        render.print_note(f"  {command}")


def show_regressions(regressions: list[Regression], baseline: str, limit: int) -> None:
    """Print a table of the first rows that the baseline scored better on."""
    if not regressions:
        return
    render.print_text()
    title = f"regressions: {format_count(len(regressions), 'row')} that {baseline} did better on"
    render.print_text(title, style="strong")
    rows = [
        [one_line(r.source), one_line(r.expected), one_line(r.baseline), one_line(r.tuned)]
        for r in regressions[:limit]
    ]
    render.print_table(["row", "expected", baseline, TUNED], rows)
    if len(regressions) > limit:
        count = len(regressions)
        render.print_text(f"{count - limit} more rows: --failures {count} shows all")


def show_notices(report: Report) -> None:
    """Print the warnings and errors of the run."""
    for notice in report.notices:
        if notice.level != "info":
            text = f"{notice.level}: {one_line(notice.source)}: {one_line(notice.message, 500)}"
            render.print_text(text, style="bad" if notice.level == "error" else "warning")


def shell_path(path: Path) -> str:
    """Quote a path for the shell, relative if it is below the current folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _metric_text(event: Measured, label: str) -> str:
    better = "higher" if event.higher_is_better else "lower"
    unit = f"{event.unit}, " if event.unit else ""
    return f"{label} ({unit}{better} is better)"


def _interval_text(event: Measured) -> str:
    return f"[{event.low:.3f}, {event.high:.3f}]"


def _table_order(report: Report) -> Any:
    """Return the sort key of the table: metrics, then models, in the order of measurement."""
    events = report.measured.values()
    metrics = list(dict.fromkeys((event.metric, event.evaluator) for event in events))
    models = list(dict.fromkeys(event.model for event in events))
    return lambda event: (
        metrics.index((event.metric, event.evaluator)),
        models.index(event.model),
    )
