"""The result of a run on one page, for a pull request or a message: as Markdown, and as SVG.

A card has no rows of the data, and no paths: it goes where others can read it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from tunesmith.events import TUNED, Measured
from tunesmith.execution.report import Report
from tunesmith.text import one_line, redact
from tunesmith_evidence.formats import (
    format_count,
    format_date,
    format_interval,
    format_number,
    format_rows,
)
from tunesmith_evidence.report.charts import IntervalBar, draw_intervals
from tunesmith_evidence.report.facts import describe_stage, list_predictions
from tunesmith_evidence.report.headline import (
    Headline,
    describe_not_measured,
    find_headline,
    group_by_metric,
    rows_measured,
)
from tunesmith_evidence.report.markdown import escape, render_table
from tunesmith_evidence.report.status import find_status

__all__ = ["render_card_markdown", "render_card_svg"]

WIDTH, MARGIN = 760, 32
LINE_CHARACTERS = 100
"""Characters of a line of the SVG: a sentence is wrapped by counting."""
BAR_WIDTH = 20
"""Characters of a bar in the Markdown table."""
STYLE = """
.page{fill:#fff;stroke:#dde1e8}
text{font:14px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1b2230}
.soft,.intervals text{font-size:12px;fill:#5a6475} .word{font-size:34px;font-weight:750}
.figure{font-size:56px;font-weight:750} .good{fill:#0f6d46} .bad{fill:#b3261e} .open{fill:#865600}
.rule{stroke:#dde1e8} .band{fill:#2459c9;opacity:.11} .bar line{stroke-width:3;stroke-linecap:round}
.plain line{stroke:#5a6475} .plain circle{fill:#5a6475} .strong line{stroke:#2459c9}
.strong circle{fill:#2459c9} .intervals .strong text{fill:#1b2230;font-weight:650}
@media (prefers-color-scheme:dark){.page{fill:#191e27;stroke:#2d3541} text{fill:#e6e9ef}
.soft,.intervals text{fill:#9ea9b9} .good{fill:#5ac799} .bad{fill:#ff8f86} .open{fill:#e5b55c}
.rule{stroke:#2d3541} .band{fill:#7ea8ff;opacity:.13} .plain line{stroke:#9ea9b9}
.plain circle{fill:#9ea9b9} .strong line{stroke:#7ea8ff} .strong circle{fill:#7ea8ff}
.intervals .strong text{fill:#e6e9ef}}
"""


def render_card_markdown(report: Report, folder: Path) -> str:
    """Return the card as Markdown."""
    headline = find_headline(report, find_status(folder, report))
    parts = [f"### {escape(headline.word)}: {escape(_name(report))}"]
    if headline.figure:
        figure = f"**{headline.figure}** ({escape(headline.interval)})"
        parts.append(f"{figure}: {escape(headline.caption, 200)}")
    if headline.sentence:
        parts.append(f"> {escape(headline.sentence, 600)}")
    events = _decisive(report)
    if events:
        parts.append(
            render_table(
                ["model", f"{escape(events[0].metric)}, 95 % interval", "rows", ""],
                [_table_row(event, events) for event in events],
            )
        )
    parts.append("<br>".join(escape(line, 300) for line in _facts(report)))
    return "\n\n".join(part for part in parts if part) + "\n"


def render_card_svg(report: Report, folder: Path) -> str:
    """Return the card as an SVG picture, light or dark as its reader prefers."""
    headline = find_headline(report, find_status(folder, report))
    events = _decisive(report)
    lines, y = list(_draw_headline(report, headline)), 0
    parts: list[Markup] = []
    for style, size, text in lines:
        y += size
        parts.append(
            Markup('<text x="{}" y="{}" class="{}">{}</text>').format(MARGIN, y, style, text)
        )
    bars = [IntervalBar(e.model, e.value, e.low, e.high, e.model == TUNED) for e in events]
    chart = (
        draw_intervals(bars, f"{events[0].metric} on {rows_measured(events)}")
        if events
        else Markup("")
    )
    if chart:
        y += 24
        parts.append(
            Markup('<svg x="{}" y="{}" width="{}" overflow="visible">{}</svg>').format(
                MARGIN, y, WIDTH - 2 * MARGIN, chart
            )
        )
        y += 40 * (len(bars) + 1)
    for line in _facts(report):
        y += 20
        text = one_line(redact(line), LINE_CHARACTERS + 20)
        parts.append(
            Markup('<text x="{}" y="{}" class="soft">{}</text>').format(MARGIN, y + 8, text)
        )
    height = y + MARGIN
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" '
            'height="{1}" role="img"><title>{2}</title><style>{3}</style>'
            '<rect class="page" x=".5" y=".5" width="{4}" height="{5}" rx="12"/>{6}</svg>\n'
        ).format(
            WIDTH,
            height,
            one_line(redact(f"{headline.word}: {_name(report)}"), 120),
            Markup(STYLE),  # noqa: S704 - a constant
            WIDTH - 1,
            height - 1,
            Markup("").join(parts),
        )
    )


def _draw_headline(report: Report, headline: Headline) -> Iterator[tuple[str, int, str]]:
    """Yield class, height and text of each line above the chart."""
    yield "soft", 34, one_line(redact(_name(report)))
    yield f"word {headline.tone}", 42, one_line(redact(headline.word), 36)
    if headline.figure:
        yield "figure", 62, headline.figure
        yield "soft", 24, headline.interval
    sentences = [headline.caption, headline.sentence]
    for sentence in sentences if headline.figure else sentences[1:]:
        text = one_line(redact(sentence), 400)
        for number, line in enumerate(textwrap.wrap(text, LINE_CHARACTERS)):
            yield "", 20 if number else 28, line


def _name(report: Report) -> str:
    return (report.started.name or report.started.run) if report.started else "run"


def _decisive(report: Report) -> list[Measured]:
    groups = group_by_metric(report)
    return groups[0] if groups else []


def _table_row(event: Measured, events: Sequence[Measured]) -> list[str]:
    value = escape(f"{format_number(event.value)} {format_interval(event.low, event.high)}")
    name = f"**{TUNED}**" if event.model == TUNED else escape(event.model)
    value = f"**{value}**" if event.model == TUNED else value
    return [name, value, format_rows(event.n, event.units), _bar(event, events)]


def _bar(event: Measured, events: Sequence[Measured]) -> str:
    """Return a bar of blocks; empty for values that are not shares."""
    if not all(0 <= each.value <= 1 for each in events):
        return ""
    filled = round(event.value * BAR_WIDTH)
    return f"`{'█' * filled}{'░' * (BAR_WIDTH - filled)}`"


def _facts(report: Report) -> Iterator[str]:
    """Yield lines on model, data, training and predictions."""
    model = report.model.reference if report.model else ""
    for stage in report.training_started:
        facts = describe_stage(report, stage)
        memory = facts.get("peak memory", "")
        parts = [
            f"{stage}: {facts['technique']}" if stage else facts["technique"],
            f"{facts['steps']} steps",
            facts["rows"],
            facts.get("time", ""),
            f"{memory} of memory" if memory else "",
            facts["device"],
        ]
        yield " · ".join(filter(None, parts))
    data = report.data
    if data is not None:
        rows = format_count(data.test, "test row")
        yield " · ".join(filter(None, [f"base model {Path(model).name}" if model else "", rows]))
    for row in list_predictions(report):
        if row.judgement:
            yield f"{row.quantity} {row.measured}, {row.judgement} the predicted {row.predicted}"
    verdict = report.finished.verdict if report.finished else {}
    if verdict.get("not_measured"):
        yield f"not measured: {describe_not_measured(verdict['not_measured'])}"
    warnings = [finding for finding in report.findings if finding.level != "info"]
    if warnings:
        yield f"{format_count(len(warnings), 'warning')} in the report"
    started = report.started
    if started is not None:
        yield f"{format_date(started.started)} · tunesmith"
