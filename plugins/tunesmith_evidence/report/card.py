"""Render the result of a run on one page, as Markdown or SVG, for a pull request or a message.

A card contains no rows and no paths, because users share it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from tunesmith.events import TUNED, Measured
from tunesmith.text import format_count, one_line, redact
from tunesmith_evidence.number_text import format_date
from tunesmith_evidence.report.charts import IntervalBar, draw_intervals
from tunesmith_evidence.report.facts import describe_stage, name_base_model
from tunesmith_evidence.report.headline import describe_not_measured
from tunesmith_evidence.report.markdown import escape_markdown, render_table
from tunesmith_evidence.report.view import MetricView, ReportView

__all__ = ["render_card_markdown", "render_card_svg"]

WIDTH, MARGIN = 760, 32
LINE_CHARACTERS = 100
"""Number of characters per line in the SVG, where sentences are wrapped by counting characters."""
BAR_WIDTH = 20
"""Width of a bar in the Markdown table, in characters."""
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


def render_card_markdown(view: ReportView) -> str:
    """Return the card of a run, a summary on one page, as Markdown."""
    headline = view.headline
    parts = [f"### {escape_markdown(headline.word)}: {escape_markdown(view.title, 200)}"]
    if view.right_answers:
        parts.append(f"**{escape_markdown(view.right_answers, 200)}**")
    if headline.figure:
        figure = f"**{headline.figure}** ({escape_markdown(headline.interval)})"
        parts.append(f"{figure}: {escape_markdown(headline.caption, 200)}")
    if headline.sentence:
        parts.append(f"> {escape_markdown(headline.sentence, 600)}")
    for metric in view.metrics[:1]:
        title = f"{escape_markdown(metric.events[0].metric)}, 95 % interval"
        parts.append(render_table(["model", title, "rows", ""], _table_rows(metric)))
    parts.append("<br>".join(escape_markdown(line, 300) for line in _facts(view)))
    return "\n\n".join(part for part in parts if part) + "\n"


def render_card_svg(view: ReportView) -> str:
    """Return the card as SVG, with a light and a dark theme."""
    lines, y = list(_draw_headline(view)), 0
    parts: list[Markup] = []
    for style, size, text in lines:
        y += size
        parts.append(
            Markup('<text x="{}" y="{}" class="{}">{}</text>').format(MARGIN, y, style, text)
        )
    for metric in view.metrics[:1]:
        bars = [IntervalBar.of(event) for event in metric.events]
        chart = draw_intervals(bars, f"{metric.events[0].metric} on {metric.rows}")
        if not chart:
            break
        y += 24
        parts.append(
            Markup('<svg x="{}" y="{}" width="{}" overflow="visible">{}</svg>').format(
                MARGIN, y, WIDTH - 2 * MARGIN, chart
            )
        )
        y += 40 * (len(bars) + 1)
    for line in _facts(view):
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
            one_line(redact(f"{view.headline.word}: {view.title}"), 120),
            Markup(STYLE),  # noqa: S704 - a constant
            WIDTH - 1,
            height - 1,
            Markup("").join(parts),
        )
    )


def _draw_headline(view: ReportView) -> Iterator[tuple[str, int, str]]:
    """Yield the class, the height and the text of each line above the chart."""
    headline = view.headline
    yield "soft", 34, one_line(redact(view.title), LINE_CHARACTERS)
    yield f"word {headline.tone}", 42, one_line(redact(headline.word), 36)
    if headline.figure:
        yield "figure", 62, headline.figure
        yield "soft", 24, headline.interval
    sentences = [view.right_answers or headline.caption, headline.sentence]
    for sentence in sentences if headline.figure else sentences[1:]:
        text = one_line(redact(sentence), 400)
        for number, line in enumerate(textwrap.wrap(text, LINE_CHARACTERS)):
            yield "", 20 if number else 28, line


def _table_rows(metric: MetricView) -> Iterator[list[str]]:
    for event, row in zip(metric.events, metric.scores, strict=True):
        is_tuned = event.model == TUNED
        value = escape_markdown(f"{row.value} {row.interval}")
        name = f"**{TUNED}**" if is_tuned else escape_markdown(event.model)
        yield [name, f"**{value}**" if is_tuned else value, row.rows, _bar(event, metric.events)]


def _bar(event: Measured, events: Sequence[Measured]) -> str:
    """Return a bar of block characters, or "" unless all values are between 0 and 1."""
    if not all(0 <= each.value <= 1 for each in events):
        return ""
    filled = round(event.value * BAR_WIDTH)
    return f"`{'█' * filled}{'░' * (BAR_WIDTH - filled)}`"


def _facts(view: ReportView) -> Iterator[str]:
    """Yield lines about the model, the data, the training and the predictions."""
    report = view.report
    model = name_base_model(report)
    for stage in report.training_started:
        facts = describe_stage(report, stage)
        memory = facts.get("peak memory", "")
        parts = [
            f"{stage}: {facts['technique']}" if stage else facts["technique"],
            f"{facts['steps']} steps",
            facts["rows"],
            facts.get("time", ""),
            f"{memory} peak memory" if memory else "",
            facts["device"],
        ]
        yield " · ".join(filter(None, parts))
    if report.data is not None:
        rows = format_count(report.data.test, "test row")
        yield " · ".join(filter(None, [f"base model {model}" if model else "", rows]))
    for row in view.predictions:
        if row.judgment:
            yield f"{row.quantity} {row.measured}, {row.judgment} the predicted {row.predicted}"
    if report.verdict.get("not_measured"):
        yield f"not measured: {describe_not_measured(report.verdict['not_measured'])}"
    if view.warnings:
        yield f"{format_count(len(view.warnings), 'warning')} in the report"
    if report.started is not None:
        yield f"{format_date(report.started.started)} · tunesmith"
