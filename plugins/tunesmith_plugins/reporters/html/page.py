"""Render the HTML page from a report. Every text from users is escaped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tunesmith.errors import IntegrityError
from tunesmith.events import TUNED, CompletionSampled, Measured
from tunesmith.execution.report import Report
from tunesmith.text import one_line, redact, safe_text
from tunesmith_evidence.fit import diagnose_fit, rate_fit
from tunesmith_evidence.formats import (
    format_count,
    format_date,
    format_duration,
    format_interval,
    format_number,
    format_rows,
)
from tunesmith_evidence.report.answers import AnswerRow, Answers, read_answers
from tunesmith_evidence.report.charts import IntervalBar, draw_curve, draw_intervals
from tunesmith_evidence.report.curves import build_loss_curve, build_other_curves
from tunesmith_evidence.report.ending import describe_ending
from tunesmith_evidence.report.facts import (
    describe_stage,
    format_reproduction,
    list_predictions,
)
from tunesmith_evidence.report.first_batch import FirstBatch, read_first_batches
from tunesmith_evidence.report.headline import (
    find_headline,
    group_by_metric,
    list_comparisons,
    rows_measured,
)
from tunesmith_evidence.report.status import find_status
from tunesmith_plugins.reporters.html.findings import list_findings

PACKAGE = "tunesmith_plugins.reporters.html"
MAX_TEXT_CHARACTERS = 2_000
"""Characters of a message that the page shows."""
MAX_CELL_CHARACTERS = 600
"""Characters of a prompt or an answer that the page shows."""
MAX_ANSWER_CHARACTERS = 200_000
"""Characters of all prompts and answers together, for a page below 500 KB."""
MAX_SAMPLES = 12
"""Completions from training that the page shows, the last ones."""
LOSS_POINTS, CURVE_POINTS = 500, 160
"""Points of the loss, and of every other curve."""
MAX_CURVES = 16
"""Other curves of a stage that the page shows."""
FIT_STYLES = {"good": "ok", "warning": "warning", "": ""}
"""Style of the pill by the rating of the fit."""


@dataclass(frozen=True)
class MetricSection:
    """One metric over all models that it was measured for."""

    name: str
    description: str
    rows: str
    """Rows that were measured: test rows or validation rows."""
    chart: Markup
    measurements: list[Measured]


@dataclass(frozen=True)
class StageSection:
    """One stage of training: facts, curves, and completions that were sampled."""

    name: str
    facts: dict[str, str]
    loss: Markup
    log_loss: Markup
    """Empty if a logarithmic scale shows nothing else."""
    is_smoothed: bool
    has_validation: bool
    curves: list[Markup]
    """The curves besides that of the loss."""
    details: dict[str, str]
    samples: list[CompletionSampled]
    """The last completions that were sampled during training."""
    first_batch: FirstBatch | None
    """The first batch as the model saw it; None if the technique does not show it."""


def render_page(report: Report, folder: Path, max_answers: int) -> str:
    """Return the complete page as text.

    Args:
        report: the report of the run.
        folder: the run's folder, which holds the values per record.
        max_answers: most test rows whose answers are on the page.
    """
    verdict = report.finished.verdict if report.finished else {}
    status = find_status(folder, report)
    answers = _read_answers(folder, report)
    shown = list(_limit_rows(answers.rows[:max_answers])) if answers else []
    template = _build_environment().get_template("page.html")
    fit = diagnose_fit(folder, report)
    return template.render(
        css=Markup(files(PACKAGE).joinpath("page.css").read_text(encoding="utf-8")),  # noqa: S704
        report=report,
        status=status,
        headline=find_headline(report, status),
        ending=describe_ending(folder, report),
        comparisons=list(list_comparisons(verdict)),
        metrics=list(_metric_sections(report)),
        gates=list(report.gates.values()),
        fit=fit,
        fit_style=FIT_STYLES[rate_fit(fit, report)] if fit else "",
        predictions=list_predictions(report),
        stages=list(_stage_sections(report, folder)),
        answers=answers,
        models=answers.models if answers else (),
        shown_rows=shown,
        findings=list_findings(report, folder),
        plan=_plan_text(report),
        command=format_reproduction(folder),
        folder=folder,
    )


def _build_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE, "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        safe=_refuse_safe,
        line=_line,
        text=_shorten,
        cell=_shorten_cell,
        token=_show_token,
        date=lambda time: one_line(format_date(time)),
        duration=format_duration,
        number=format_number,
        count=format_count,
        quote=shlex.quote,
    )
    environment.globals["interval"] = format_interval
    environment.globals["sample"] = format_rows
    return environment


def _refuse_safe(value: object) -> str:
    """Refuse the filter ``safe``: only charts may be markup, and their type is Markup already."""
    raise TypeError("the filter `safe` must not be used in this template")


def _line(value: str, limit: int = 80) -> str:
    return one_line(redact(value), limit)


def _shorten(value: str) -> str:
    # Redacted before it is cut: half a secret is not recognized.
    return safe_text(redact(value), MAX_TEXT_CHARACTERS)


def _shorten_cell(value: str) -> str:
    return safe_text(redact(value).strip(), MAX_CELL_CHARACTERS)


def _show_token(value: str) -> str:
    return safe_text(value).replace("\n", "↵\n").replace("\t", "⇥\t")


def _read_answers(folder: Path, report: Report) -> Answers | None:
    """Return the answers; None also if a file is lost: `tunesmith verify` names it."""
    try:
        return read_answers(folder, report)
    except IntegrityError:
        return None


def _limit_rows(rows: Sequence[AnswerRow]) -> Iterator[AnswerRow]:
    """Yield rows until their texts are as long as the page may be."""
    room = MAX_ANSWER_CHARACTERS
    for row in rows:
        texts = [row.question, row.expected, *(answer.text for answer in row.answers)]
        # Markup and characters that take several bytes: about 600 and 2 for each.
        room -= 600 + sum(min(2 * len(text), 2 * MAX_CELL_CHARACTERS) for text in texts)
        if room < 0:
            return
        yield row


def _plan_text(report: Report) -> str:
    if report.started is None:
        return ""
    return redact(safe_text(tomli_w.dumps(_without_none(report.started.plan))))


def _without_none(value: Any) -> Any:
    """Remove None values, which TOML cannot represent."""
    if isinstance(value, Mapping):
        return {key: _without_none(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value if v is not None]
    return value


def _metric_sections(report: Report) -> Iterator[MetricSection]:
    notes = {event.baseline: event.variant for event in report.baselines.values()}
    for events in group_by_metric(report):
        name = report.metric_label(events[0].evaluator, events[0].metric)
        better = "higher" if events[0].higher_is_better else "lower"
        unit = f"{events[0].unit}, " if events[0].unit else ""
        bars = [
            IntervalBar(e.model, e.value, e.low, e.high, e.model == TUNED, notes.get(e.model, ""))
            for e in events
        ]
        rows = rows_measured(events)
        description = f"{unit}{better} is better"
        yield MetricSection(name, description, rows, draw_intervals(bars, name), events)


def _stage_sections(report: Report, folder: Path) -> Iterator[StageSection]:
    first_batches = read_first_batches(folder / "events.jsonl")
    for name, started in report.training_started.items():
        loss = build_loss_curve(report, name)
        others = build_other_curves(report, name)[:MAX_CURVES]
        is_positive = all(value > 0 for _, value in (*loss.points, *loss.validation))
        samples = [event for (stage, _, _), event in report.samples.items() if stage == name]
        yield StageSection(
            name=name,
            facts=describe_stage(report, name),
            loss=draw_curve(loss, height=280, most_points=LOSS_POINTS),
            log_loss=(
                draw_curve(loss, height=280, log=True, most_points=LOSS_POINTS)
                if is_positive
                else Markup("")
            ),
            is_smoothed=bool(loss.smoothed),
            has_validation=bool(loss.validation),
            curves=[draw_curve(curve, height=170, most_points=CURVE_POINTS) for curve in others],
            details={key: _detail_text(value) for key, value in started.details.items()},
            samples=samples[-MAX_SAMPLES:],
            first_batch=first_batches.get(name),
        )


def _detail_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
