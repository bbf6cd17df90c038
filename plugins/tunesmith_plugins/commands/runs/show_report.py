"""Print a report as text: the result of a run in a few lines, or each part of the report."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunesmith.events import TUNED, DataLoaded, FindingReported, GateChecked
from tunesmith.execution.report import Report
from tunesmith.machine import expand_home
from tunesmith.terminal import supports_unicode
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_evidence.number_text import format_number
from tunesmith_evidence.report.answer_parts import MAX_PAIRS, describe_fields
from tunesmith_evidence.report.answers import Answers
from tunesmith_evidence.report.curves import build_loss_curve
from tunesmith_evidence.report.facts import (
    describe_cost,
    describe_data,
    describe_gate,
    describe_stage,
)
from tunesmith_evidence.report.similar_rows import join_similar_rows
from tunesmith_evidence.report.text_plot import ASCII_MARKS, UNICODE_MARKS, plot_curve
from tunesmith_evidence.report.view import ReportView

OUTCOME_STYLES = {"better": "good", "worse": "bad"}
MAX_FIELDS = 4
"""Maximum number of fields, or of confused labels, to print at the end of a run."""


def show_scores(view: ReportView) -> None:
    """Print a table of scores with a line per metric and model, and the evaluators' findings."""
    rows = [
        [row.model, f"{metric.label} ({metric.description})", row.value, row.interval, row.rows]
        for metric in view.metrics
        for score in metric.scores
        for row in (score, score.leakage_free)
        if row is not None
    ]
    if rows:
        names = ["model", "metric", "value", "95 % interval", "n"]
        render.print_table(names, rows, right=(2, 3, 4))
    for metric in view.metrics[:1]:
        if metric.cut:
            render.print_paragraph(f"answers {metric.cut}")
    for label, finding in view.findings:
        render.print_paragraph(f"{one_line(label)}: {one_line(finding, 1000)}")


def show_end(view: ReportView) -> None:
    """Print the result of a run in a few lines, without the parts of the whole report."""
    report, headline = view.report, view.headline
    show_headline(view)
    if not report.verdict and headline.figure:
        render.print_paragraph(f"{headline.caption}: {headline.figure}, {headline.interval}")
    baseline = str(report.verdict.get("baseline", ""))
    fields = describe_fields(view.field_scores, TUNED, baseline, MAX_FIELDS)
    pairs = view.confusions.worst[:MAX_FIELDS] if view.confusions else []
    notes = [
        format_count(sum(report.data.skipped.values()), "skipped row") if report.data else "",
        format_count(len(view.warnings), "warning"),
        f"fit: {view.fit.state}" if view.fit else "",
    ]
    effects = str(report.verdict.get("side_effects_text", ""))
    lines = [
        ("right by field", fields),
        ("most confused", "; ".join(f"{a} answered as {b}: {n:,}" for a, b, n in pairs)),
        *view.findings,
        ("side effects", "" if effects in headline.sentence else effects),
        ("cost", describe_cost(report)),
        ("notes", ", ".join(filter(None, notes))),
    ]
    for label, text in lines:
        if text:
            render.print_paragraph(f"{one_line(label)}: {one_line(text, 600)}")
    show_gates([gate for gate in report.gates.values() if not gate.passed])


def show_headline(view: ReportView) -> None:
    """Print the verdict's word, the number of right answers, and the verdict's sentence."""
    verdict = view.report.verdict
    style = OUTCOME_STYLES.get(str(verdict.get("outcome")), "warning")
    if verdict.get("word"):
        render.print_text(one_line(view.headline.word), style="strong")
    if view.right_answers:
        render.print_paragraph(view.right_answers, style="strong")
    if view.headline.sentence:
        render.print_paragraph(view.headline.sentence, style=style)


def show_verdict(view: ReportView) -> None:
    """Print the verdict's word and sentence, what would change it, and the baselines."""
    if not view.report.verdict:
        return
    show_headline(view)
    if view.headline.would_change:
        text = f"what would change the verdict: {view.headline.would_change}"
        render.print_paragraph(text, style="dim")
    rows = [
        [
            one_line(row.baseline),
            row.value,
            row.tuned,
            f"{row.difference} {row.interval}",
            row.rows,
            one_line(row.outcome),
        ]
        for row in view.comparisons
    ]
    if rows:
        render.print_text()
        render.print_table(
            [
                "compared with",
                "baseline",
                "tuned",
                f"difference, {view.comparisons[0].confidence} interval",
                "n",
                "tuned is",
            ],
            rows,
            right=(1, 2, 3, 4),
        )
    render.print_text()


def show_training(report: Report) -> None:
    """Print a summary line and a loss curve for each stage."""
    marks = UNICODE_MARKS if supports_unicode(sys.stdout) else ASCII_MARKS
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
    """Print a table of a stage's evaluations on validation rows during training."""
    events = report.monitored_of(stage)
    if not events:
        return
    names = list(dict.fromkeys(name for event in events for name in event.metrics))
    rows = [
        [f"{event.step}{' best' if event.best else ''}"]
        + [format_number(event.metrics[name]) if name in event.metrics else "" for name in names]
        for event in events
    ]
    render.print_table(["step", *map(one_line, names)], rows, right=range(1, len(names) + 1))


def show_forecast(view: ReportView) -> None:
    """Print predicted memory and time, and the measured values once training has finished."""
    for row in view.predictions:
        text = f"predicted {row.quantity}: {row.predicted}"
        text += f"; measured: {row.measured}, {row.judgment}" if row.judgment else ""
        render.print_text(text, style="dim")


def show_answers(answers: Answers, limit: int) -> None:
    """Print up to ``limit`` rows that the tuned model got wrong or made worse, with answers."""
    failures = [row for row in answers.rows if row.is_wrong or row.is_regressed]
    if not failures:
        return
    rows = join_similar_rows(failures)
    render.print_text()
    render.print_text(answers.summary, style="strong")
    for found in rows[:limit]:
        row = found.row
        render.print_text()
        style = "bad" if row.is_regressed else ""
        marks = ["got worse"] if row.is_regressed else []
        marks += ["partly right"] if row.is_partly_right else []
        marks += [found.note] if found.note else []
        render.print_text(f"  {', '.join([one_line(row.source), *marks])}", style=style)
        for label, text in [*row.asked, *((a.model, a.shown) for a in row.answers)]:
            line = f"{one_line(label, 16):<16} {one_line(text, 300)}"
            render.print_paragraph(line, indent="    ")
    if len(rows) > limit:
        render.print_text()
        left = sum(1 + len(found.others) for found in rows[limit:])
        more = format_count(left, "more row")
        render.print_text(f"{more}; show all with --failures {len(rows)}")


def show_answer_parts(view: ReportView) -> None:
    """Print the scores by field of JSON answers, and the most confused labels."""
    if view.field_scores:
        models = list(view.field_scores[0].right)
        render.print_text()
        render.print_table(
            ["right answers by field", *models],
            [
                [one_line(score.name), *(score.format(model) for model in models)]
                for score in view.field_scores
            ],
            right=range(1, len(models) + 1),
        )
    if view.confusions is not None and view.confusions.worst:
        render.print_text()
        render.print_table(
            ["expected label", "answered", "rows"],
            [
                [one_line(expected), one_line(given), f"{count:,}"]
                for expected, given, count in view.confusions.worst[:MAX_PAIRS]
            ],
            right=(2,),
        )


def show_fit(view: ReportView) -> None:
    """Print the diagnosis of the fit, such as overfitted, and the evidence for it."""
    if view.fit is not None:
        render.print_text()
        render.print_paragraph(f"fit: {view.fit.state}; {view.fit.sentence}", style=view.fit_rating)


def to_json(view: ReportView) -> dict[str, Any]:
    """Return the report as JSON, with the fit, the parts of the answers and the run folder."""
    content = view.report.to_json()
    content["run"]["status"] = view.status
    fit = view.fit.to_json() if view.fit else {}
    fields = [
        {
            "field": score.name,
            "rows": score.rows,
            "right": {
                model: {"right": right, "answered": answered}
                for model, (right, answered) in score.right.items()
            },
        }
        for score in view.field_scores
    ]
    confusions = view.confusions.worst if view.confusions else []
    return {
        **content,
        "fit": fit,
        "right_answers": view.right_answers,
        "fields": fields,
        "confusions": [
            {"expected": expected, "answered": given, "rows": count}
            for expected, given, count in confusions
        ],
        "folder": str(view.folder),
    }


def show_gates(gates: Iterable[GateChecked]) -> None:
    """Print the results of gates that the technique checked between its stages."""
    for gate in gates:
        result, style = describe_gate(gate)
        render.print_text()
        name = ", ".join(map(one_line, filter(None, (gate.stage, gate.gate))))
        text = f"gate {name}: {result}; "
        render.print_paragraph(text + one_line(gate.message, 1000), style=style)


def show_data(data: DataLoaded) -> None:
    """Print the number of rows in each split, and the skipped rows by cause."""
    source = f" ({one_line(data.description, 200)})" if data.description else ""
    render.print_paragraph(f"data: {describe_data(data)}{source}")
    for cause, count in data.skipped.items():
        first = next((e for e in data.examples if e.get("cause") == cause), {})
        where = f", first {one_line(str(first['where']))}" if "where" in first else ""
        render.print_text(f"  skipped: {format_count(count, 'row')}, {one_line(cause)}{where}")


def show_paths(view: ReportView) -> None:
    """Print the paths of the run folder, the trained model and the report pages."""
    folder, report = view.folder.absolute(), view.report
    render.print_text()
    render.print_text(f"run folder: {folder}")
    trained = report.training_finished.get("")
    if trained is not None:
        render.print_text(f"{trained.format}: {folder / trained.artifact}")
    for page in find_report_pages(folder, report):
        render.print_text(f"report page: {page}")


def find_report_pages(folder: Path, report: Report) -> list[Path]:
    """Return the HTML pages that reporters wrote to the path in their option ``path``."""
    reporters = report.started.plan.get("reporters", []) if report.started else []
    paths = (reporter.get("path") for reporter in reporters)
    pages = (folder / expand_home(path) for path in paths if isinstance(path, str) and path)
    return [page for page in pages if page.suffix == ".html" and page.is_file()]


def show_ending(view: ReportView) -> None:
    """Print why and where a run ended without a result, and what the user can do."""
    ending = view.ending
    if ending is None:
        return
    style = "bad" if view.report.status == "failed" else "warning"
    for line in ending.what.splitlines():
        render.print_paragraph(line, style=style)
    render.print_paragraph(f"where: {ending.where}")
    for number, line in enumerate(ending.hint.splitlines()):
        if number:
            render.print_paragraph(line.strip(), indent="  ", style="strong")
        else:
            render.print_paragraph(f"to do: {line}", style="strong")
    render.print_text(f"then: {ending.format_command(render.shell_path(view.folder))}\n")


def show_next_commands(view: ReportView) -> None:
    """Print the commands that a user is likely to need next."""
    run = render.shell_path(view.folder)
    commands = view.list_next_commands(run)
    if view.report.measured:
        commands.append(f"tunesmith report {run}")
    if commands:
        render.print_note("\nNext commands:")
    for command in commands:
        render.print_note(f"  {command}")


def show_findings(findings: Iterable[FindingReported]) -> None:
    """Print the warnings and errors among the findings."""
    for finding in findings:
        if finding.level != "info":
            text = f"{finding.level}: {one_line(finding.source)}: {one_line(finding.text, 600)}"
            render.print_paragraph(text, style="bad" if finding.level == "error" else "warning")
