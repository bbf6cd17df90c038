"""Render a report as an HTML page. All text from users is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli_w
from markupsafe import Markup

from tunesmith.errors import IntegrityError
from tunesmith.events import TUNED, CompletionSampled, DataLoaded, FindingReported
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.text import redact, safe_text
from tunesmith_evidence.number_text import format_interval
from tunesmith_evidence.report.answer_parts import find_weakest_field
from tunesmith_evidence.report.charts import (
    IntervalBar,
    draw_curve,
    draw_intervals,
    draw_overlay,
    draw_reliability,
)
from tunesmith_evidence.report.curves import (
    build_loss_curve,
    build_other_curves,
    build_stage_curves,
)
from tunesmith_evidence.report.facts import (
    describe_cost,
    describe_data,
    describe_gate,
    describe_stage,
    format_reproduction,
)
from tunesmith_evidence.report.first_batch import FirstBatch, read_first_batches
from tunesmith_evidence.report.html import MAX_CELL_CHARACTERS, build_environment
from tunesmith_evidence.report.previews import PreviewImage
from tunesmith_evidence.report.similar_rows import SimilarRows, join_similar_rows
from tunesmith_evidence.report.view import MetricView, ReportView

PACKAGE = "tunesmith_plugins.reporters.html"
MAX_ANSWER_CHARACTERS = 200_000
"""Limit in bytes for all prompts, answers and their markup, so the page stays under 500 KB."""
MAX_IMAGE_CHARACTERS = 400_000
"""Limit in bytes for all pictures of prompts, so a page with pictures stays under 1 MB."""
MAX_SAMPLES = 12
"""Maximum number of completions sampled during training to show; the latest are shown."""
LOSS_POINTS, CURVE_POINTS = 500, 160
"""Maximum number of points in the loss curve, and in every other curve."""
MAX_CURVES = 16
"""Maximum number of curves per stage, besides the loss."""
MAX_ROWS = 200
"""Maximum number of test rows listed for a finding, by file and line."""
LEVELS = ("error", "warning", "info")
SLIDER_SCRIPT = """
const slider = document.getElementById("threshold");
const rows = [...document.querySelectorAll("#thresholds tr")].slice(1);
const show = () => rows.forEach((row, place) => { row.hidden = place != slider.value; });
slider.hidden = false;
slider.oninput = show;
show();
"""
"""Shows the row of the thresholds that the slider selects. Without scripts, all are shown."""
SLIDER_HASH = base64.b64encode(hashlib.sha256(SLIDER_SCRIPT.encode()).digest()).decode()
"""The only script that the page's Content-Security-Policy allows."""


@dataclass(frozen=True)
class StageSection:
    """The content of the page's section about one training stage."""

    name: str
    facts: dict[str, str]
    loss: Markup
    log_loss: Markup
    """The loss curve on a logarithmic scale; empty unless all losses are positive."""
    is_smoothed: bool
    has_validation: bool
    curves: list[Markup]
    """All curves except the loss."""
    details: dict[str, str]
    samples: list[CompletionSampled]
    """The last completions sampled during training."""
    first_batch: FirstBatch | None
    """The first batch as the model saw it, or None if the technique does not log it."""


def render_page(view: ReportView, max_answers: int) -> str:
    """Return the complete page, with the answers to at most ``max_answers`` test rows."""
    answers = view.intact_answers
    rows = join_similar_rows(answers.rows) if answers else []
    shown = list(_limit_rows(rows[:max_answers]))
    images = list(_limit_images(shown))
    courses = build_stage_curves(view.report)
    environment = build_environment(PACKAGE)
    environment.globals.update(
        chart=_draw_metric,
        data=describe_data,
        gate=describe_gate,
        interval=format_interval,
        lengths=list_lengths,
        reliability=draw_reliability,
    )
    return environment.get_template("page.html").render(
        view=view,
        report=view.report,
        headline=view.headline,
        script=Markup(SLIDER_SCRIPT),  # noqa: S704 - a constant
        script_hash=SLIDER_HASH,
        ending=view.ending,
        fit=view.fit,
        fit_style="ok" if view.fit_rating == "good" else view.fit_rating,
        stages=list(_stage_sections(view)),
        courses=draw_overlay(courses),
        course_names=[*courses],
        answers=answers,
        models=answers.models if answers else (),
        shown_rows=shown,
        shown_images=images,
        image_limit=MAX_IMAGE_CHARACTERS // 1000,
        hidden_images=sum(len(found.row.images) for found in shown) - sum(map(len, images)),
        shown=sum(1 + len(found.others) for found in shown),
        weakest=find_weakest_field(view.field_scores, TUNED),
        findings=list_findings(view),
        cost=describe_cost(view.report),
        plan=_plan_text(view.report),
        command=format_reproduction(view.folder),
    )


def _limit_rows(rows: Sequence[SimilarRows]) -> Iterator[SimilarRows]:
    """Yield rows until their texts fill the page's limit."""
    room = MAX_ANSWER_CHARACTERS
    for found in rows:
        row = found.row
        texts = [row.question, row.expected, *(answer.text for answer in row.answers)]
        # About 600 bytes of markup per row, and 2 bytes per character.
        room -= 600 + sum(min(2 * len(text), 2 * MAX_CELL_CHARACTERS) for text in texts)
        if room < 0:
            return
        yield found


def _limit_images(rows: Sequence[SimilarRows]) -> Iterator[list[PreviewImage]]:
    """Yield the pictures of each row, none after they fill the page's limit."""
    room = MAX_IMAGE_CHARACTERS
    for found in rows:
        images = [image for image in found.row.images if image.url]
        room -= sum(len(image.url) for image in images)
        yield images if room >= 0 else []


def _plan_text(report: Report) -> str:
    if report.started is None:
        return ""
    return redact(safe_text(tomli_w.dumps(_without_none(report.started.plan))))


def _without_none(value: Any) -> Any:
    """Return the value without any None, which TOML cannot represent."""
    if isinstance(value, Mapping):
        return {key: _without_none(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value if v is not None]
    return value


def list_lengths(data: DataLoaded) -> Iterator[tuple[str, list[tuple[str, list[float]]]]]:
    """Yield length ranges of prompts and answers, with each split's share of rows in each range."""
    for part in ("prompt", "answer"):
        splits = [data.lengths.get(split, {}).get(part, {}) for split in ("train", "test")]
        powers = [int(top).bit_length() for counts in splits for top in counts]
        tops = [1 << (n - 1) for n in range(min(powers), max(powers) + 1)] if powers else []
        yield (
            part,
            [
                (
                    f"{top // 2 + 1:,} to {top:,}",
                    [counts.get(str(top), 0) / max(sum(counts.values()), 1) for counts in splits],
                )
                for top in tops
            ],
        )


def _draw_metric(metric: MetricView) -> Markup:
    return draw_intervals([IntervalBar.of(event) for event in metric.events], metric.label)


def list_findings(view: ReportView) -> list[tuple[FindingReported, list[str]]]:
    """Return errors, warnings, and notes about rows, in this order.

    Each finding comes with the sources (``file:line``) of the test rows that it refers to, if they
    are known.
    """
    findings = [n for n in view.report.findings if n.level != "info" or n.count or n.examples]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    sources = list(_test_sources(view)) if any(n.test_rows for n in findings) else []
    return [
        (finding, [sources[row] for row in finding.test_rows[:MAX_ROWS] if row < len(sources)])
        for finding in findings
    ]


def _test_sources(view: ReportView) -> Iterator[str]:
    """Yield the source ("file:line") of each test row, read from an evaluation of all rows."""
    test = view.report.data.test if view.report.data else 0
    event = next((e for e in view.report.measured.values() if e.n == test), None)
    try:
        for row in read_rows(view.folder / event.records, event.metric) if event else ():
            yield str(row["source"])
    except (IntegrityError, KeyError):
        return


def _stage_sections(view: ReportView) -> Iterator[StageSection]:
    report, first_batches = view.report, read_first_batches(view.folder / "events.jsonl")
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
