"""Print the results of a run as text: data, scores, verdict, gates, paths, next commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.events import TUNED, Measured
from tunesmith.execution.report import Report
from tunesmith.machine import expand_home
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_evidence.answers.cut_answers import list_cut
from tunesmith_evidence.fit import diagnose_fit, rate_fit
from tunesmith_evidence.formats import (
    format_interval,
    format_number,
    format_rows,
)
from tunesmith_evidence.report.ending import describe_ending
from tunesmith_evidence.report.headline import group_by_metric, list_comparisons
from tunesmith_evidence.report.status import find_status

LEAKAGE_FREE = ", leakage-free"
"""After the name of a metric: without the test rows that have a duplicate in training."""
OUTCOME_STYLES = {"better": "good", "worse": "bad"}


def show_scores(report: Report) -> None:
    """Print the table of scores, one line per metric and model, and what evaluators found."""
    rows = [
        [
            event.model,
            _metric_text(event, report.metric_label(event.evaluator, event.metric)) + suffix,
            format_number(values["value"]),
            format_interval(values["low"], values["high"]),
            format_rows(int(values["n"]), int(values.get("units", 0))),
        ]
        for event in sorted(report.measured.values(), key=_table_order(report))
        for suffix, values in (("", vars(event)), (LEAKAGE_FREE, event.leakage_free))
        if values
    ]
    if rows:
        render.print_table(
            ["model", "metric", "value", "95 % interval", "n"], rows, right=(2, 3, 4)
        )
    for events in group_by_metric(report)[:1]:
        if cut := list_cut(events):
            render.print_paragraph(f"answers {cut}")
    for event in report.measured.values():
        finding = event.details.get("finding")
        if event.model == TUNED and isinstance(finding, str):
            label = report.metric_label(event.evaluator, event.metric)
            render.print_paragraph(f"{one_line(label)}: {one_line(finding, 1000)}")


def show_verdict(report: Report) -> None:
    """Print the verdict: its word, its sentence, what would change it, and the baselines."""
    verdict = report.finished.verdict if report.finished else {}
    if not verdict:
        return
    style = OUTCOME_STYLES.get(str(verdict.get("outcome")), "warning")
    if verdict.get("word"):
        render.print_text(one_line(str(verdict["word"])), style="strong")
    render.print_paragraph(str(verdict.get("sentence", "")), style=style)
    if verdict.get("would_change"):
        text = f"it would change with: {verdict['would_change']}"
        render.print_paragraph(text, style="dim")
    rows = [
        [
            one_line(row.baseline),
            row.value,
            row.tuned,
            f"{row.difference} {row.interval}",
            f"{row.n:,}",
            one_line(row.outcome),
        ]
        for row in list_comparisons(verdict)
    ]
    if rows:
        render.print_text()
        render.print_table(
            ["compared with", "baseline", "tuned", "difference", "n", "tuned is"],
            rows,
            right=(1, 2, 3, 4),
        )
    render.print_text()


def show_fit(folder: Path, report: Report) -> None:
    """Print how well the training fits the data, and what that follows from."""
    fit = diagnose_fit(folder, report)
    if fit is not None:
        render.print_text()
        text = f"fit: {fit.state}; {fit.sentence}"
        render.print_paragraph(text, style=rate_fit(fit, report))


def to_json(folder: Path, report: Report) -> dict[str, Any]:
    """Return the report with the diagnosis of the fit, and the run folder."""
    fit = diagnose_fit(folder, report)
    content = report.to_json()
    content["run"]["status"] = find_status(folder, report)
    return {**content, "fit": fit.to_json() if fit else {}, "folder": str(folder)}


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


def show_data(report: Report) -> None:
    """Print the number of rows, and the rows that could not be used by cause."""
    data = report.data
    if data is None:
        return
    validation = f", {data.validation:,} for choices (validation)" if data.validation else ""
    train = format_count(data.train, "training row")
    rows = f"{train}{validation}, {data.test:,} held out for evaluation"
    source = f" ({one_line(data.description, 200)})" if data.description else ""
    render.print_paragraph(f"data: {rows}{source}")
    for cause, count in data.skipped.items():
        first = next((e for e in data.examples if e.get("cause") == cause), {})
        where = f", first {one_line(str(first['where']))}" if "where" in first else ""
        render.print_text(f"  skipped: {format_count(count, 'row')}, {one_line(cause)}{where}")


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
    pages = (folder / expand_home(path) for path in paths if isinstance(path, str) and path)
    return [page for page in pages if page.suffix == ".html" and page.is_file()]


def show_ending(folder: Path, report: Report) -> None:
    """Print why a run has no result, in which part of it that happened, and what to do."""
    ending = describe_ending(folder, report)
    if ending is None:
        return
    style = "bad" if report.status == "failed" else "warning"
    for line in ending.what.splitlines():
        render.print_paragraph(line, style=style)
    render.print_paragraph(f"where: {ending.where}")
    for number, line in enumerate(ending.hint.splitlines()):
        if number:
            render.print_paragraph(line.strip(), indent="  ", style="strong")
        else:
            render.print_paragraph(f"to do: {line}", style="strong")
    render.print_text(f"then: {ending.format_command(render.shell_path(folder))}\n")


def show_next_commands(folder: Path, report: Report) -> None:
    """Print the commands that a user probably needs next."""
    run = render.shell_path(folder)
    commands = []
    ending = describe_ending(folder, report)
    if ending is not None and report.status != "stopped":  # its message has the command
        commands.append(ending.format_command(run))
    if report.training_finished.get("") is not None:
        commands += [f"tunesmith chat {run} --compare base", f"tunesmith report {run}"]
        if report.finished and report.finished.verdict.get("winner"):
            commands.insert(0, f"tunesmith chat {run} --winner")
    if commands:
        render.print_note("\nnext commands:")
    for command in commands:
        render.print_note(f"  {command}")


def show_findings(report: Report) -> None:
    """Print the warnings and errors of the run."""
    for finding in report.findings:
        if finding.level != "info":
            text = f"{finding.level}: {one_line(finding.source)}: {one_line(finding.text, 600)}"
            render.print_paragraph(text, style="bad" if finding.level == "error" else "warning")


def _metric_text(event: Measured, label: str) -> str:
    better = "higher" if event.higher_is_better else "lower"
    unit = f"{event.unit}, " if event.unit else ""
    validation = "validation rows, " if event.part == "validation" else ""
    return f"{label} ({validation}{unit}{better} is better)"


def _table_order(report: Report) -> Any:
    """Return the sort key of the table: metrics, then models, in the order of measurement."""
    events = report.measured.values()
    metrics = list(dict.fromkeys((event.metric, event.evaluator) for event in events))
    models = list(dict.fromkeys(event.model for event in events))
    return lambda event: (
        metrics.index((event.metric, event.evaluator)),
        models.index(event.model),
    )
