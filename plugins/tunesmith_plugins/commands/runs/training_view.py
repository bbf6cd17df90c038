"""Print as text what only the report of a run has: training, forecast and wrong rows."""

from __future__ import annotations

import sys

from tunesmith.execution.report import Report
from tunesmith.terminal import supports_unicode
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_evidence.formats import format_number
from tunesmith_evidence.report.answers import Answers
from tunesmith_evidence.report.curves import build_loss_curve
from tunesmith_evidence.report.facts import describe_stage, list_predictions
from tunesmith_evidence.report.markdown import describe_wrong
from tunesmith_evidence.report.text_plot import ASCII, UNICODE, plot_curve


def show_training(report: Report) -> None:
    """Print a summary line and a loss curve for each stage."""
    marks = UNICODE if supports_unicode(sys.stdout) else ASCII
    for stage in report.training_started:
        facts = describe_stage(report, stage)
        parts = [
            f"{facts['technique']}{f' ({stage})' if stage else ''}: step {facts['steps']}",
            facts["rows"],
            f"trainable parameters {facts['trainable parameters']}",
            *(facts.get(name, "") for name in ("processes", "time", "speed")),
            f"peak memory {facts['peak memory']}" if "peak memory" in facts else "",
        ]
        render.print_text()
        render.print_paragraph(", ".join(filter(None, parts)))
        title, *lines = plot_curve(build_loss_curve(report, stage), marks=marks) or [""]
        if title:
            render.print_text(title)
        for line in lines:
            render.print_text(f"  {line}", style="dim")
        _show_monitored(report, stage)


def _show_monitored(report: Report, stage: str) -> None:
    """Print a table of the evaluations on validation records during the training of a stage."""
    events = [event for (name, _), event in sorted(report.monitored.items()) if name == stage]
    if not events:
        return
    names = list(dict.fromkeys(name for event in events for name in event.metrics))
    rows = [
        [f"{event.step}{' best' if event.best else ''}"]
        + [format_number(event.metrics[name]) if name in event.metrics else "" for name in names]
        for event in events
    ]
    render.print_table(["step", *map(one_line, names)], rows, right=range(1, len(names) + 1))


def show_forecast(report: Report) -> None:
    """Print predicted memory and time, with the measured values if training has finished."""
    for row in list_predictions(report):
        text = f"predicted {row.quantity}: {row.predicted}"
        text += f"; measured: {row.measured}, {row.judgement}" if row.judgement else ""
        render.print_text(text, style="dim")


def show_answers(answers: Answers, limit: int) -> None:
    """Print the first rows that the tuned model did not get right, with prompts and answers."""
    rows = [row for row in answers.rows if row.is_wrong or row.is_regressed]
    if not rows:
        return
    render.print_text()
    render.print_text(describe_wrong(answers), style="strong")
    for row in rows[:limit]:
        render.print_text()
        style = "bad" if row.is_regressed else ""
        mark = ", got worse" if row.is_regressed else ""
        render.print_text(f"  {one_line(row.source)}{mark}", style=style)
        cells = [("prompt", row.question)] if row.question else []
        cells += [("expected", row.expected)]
        cells += [(answer.model, answer.text.strip() or "(empty)") for answer in row.answers]
        for label, text in cells:
            line = f"{one_line(label, 16):<16} {one_line(text, 300)}"
            render.print_paragraph(line, indent="    ")
    if len(rows) > limit:
        render.print_text()
        render.print_text(f"{len(rows) - limit} more rows: --failures {len(rows)} shows all")
