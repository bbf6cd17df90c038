"""Render a run's report as Markdown.

Rows and answers are written as code spans, so that they cannot become markup, links or mentions of
people. In other text, Markdown characters are escaped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from tunesmith.events import TUNED
from tunesmith.text import one_line, redact
from tunesmith_evidence.number_text import format_date
from tunesmith_evidence.report.answer_parts import MAX_PAIRS
from tunesmith_evidence.report.curves import build_loss_curve
from tunesmith_evidence.report.facts import describe_gate, describe_stage, format_reproduction
from tunesmith_evidence.report.similar_rows import join_similar_rows
from tunesmith_evidence.report.text_plot import plot_curve
from tunesmith_evidence.report.view import ReportView

__all__ = ["render_markdown"]

MAX_CHARACTERS = 300
"""Maximum length of a prompt or an answer."""


def render_markdown(view: ReportView, max_rows: int) -> str:
    """Render the full report as Markdown, listing at most ``max_rows`` incorrect answers."""
    parts = [
        *_render_headline(view),
        *_render_ending(view),
        *_render_scores(view),
        *_render_findings(view),
        *_render_training(view),
        *_render_predictions(view),
        *_render_parts(view),
        *_render_answers(view, max_rows),
        "## Reproduction",
        f"```console\n$ {redact(format_reproduction(view.folder))}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _render_headline(view: ReportView) -> Iterator[str]:
    """Yield the verdict with its figure, and the run's status."""
    headline, started = view.headline, view.report.started
    yield f"# {escape_markdown(headline.word)}: {escape_markdown(view.title, 200)}"
    if view.right_answers:
        yield f"**{escape_markdown(view.right_answers, 200)}**"
    if headline.figure:
        figure = f"{headline.figure}** ({escape_markdown(headline.interval)})"
        yield f"**{figure}: {escape_markdown(headline.caption, 200)}"
    if headline.sentence:
        yield f"> {escape_markdown(headline.sentence, 1_000)}"
    if headline.would_change:
        yield f"What would change the verdict: {escape_markdown(headline.would_change, 400)}"
    when = f", started {format_date(started.started)}" if started else ""
    yield f"Status: {escape_markdown(view.status + when)}"
    if view.error:
        yield format_code_span(view.error, 1_000)


def _render_ending(view: ReportView) -> Iterator[str]:
    ending = view.ending
    if ending is None:
        return
    yield f"**{escape_markdown(ending.what, 1_000)}**"
    lines = [f"- Where: {escape_markdown(ending.where, 200)}"]
    lines += [f"- To do: {escape_markdown(ending.hint, 1_000)}"] if ending.hint else []
    command = redact(ending.format_command(shlex.quote(str(view.folder))))
    yield "\n".join([*lines, f"- Then: {format_code_span(command, 400)}"])


def render_table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """Return a Markdown table whose last ``right`` columns are right-aligned."""
    marks = ["---"] * (len(headers) - right) + ["--:"] * right
    lines = [headers, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_code_span(text: str, limit: int = 80) -> str:
    """Return text as a one-line code span, so that nothing in it is markup."""
    line = one_line(redact(text), limit)
    if not line:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line[0] == "`" or line[-1] == "`" else ""
    # In a table, a vertical bar ends the cell even inside a code span.
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def escape_markdown(text: str, limit: int = 80) -> str:
    """Escape Markdown in a line of text; use a code span if it may contain a link or a mention."""
    line = one_line(redact(text), limit)
    if re.search(r"@|://|www\.", line):
        return format_code_span(text, limit)
    return re.sub(r"([\\`*_\[\]<>#|~&])", r"\\\1", line)


def _render_scores(view: ReportView) -> Iterator[str]:
    if view.metrics:
        yield "## Scores"
    for metric in view.metrics:
        yield f"{format_code_span(metric.label)} ({escape_markdown(metric.description)}):"
        yield render_table(
            ["model", "value", "95 % interval", "rows"],
            [
                [
                    f"**{TUNED}**" if row.model == TUNED else format_code_span(row.model),
                    row.value,
                    row.interval,
                    row.rows,
                ]
                for row in metric.scores
            ],
            right=3,
        )
        if metric.cut:
            yield f"Answers {metric.cut}."


def _render_findings(view: ReportView) -> Iterator[str]:
    if view.warnings:
        yield "## Findings"
        yield "\n".join(
            f"- {finding.level}: {escape_markdown(finding.source)}: "
            f"{escape_markdown(finding.text, 600)}"
            for finding in view.warnings
        )
    if view.report.gates:
        yield "## Gates"
        yield "\n".join(
            f"- {describe_gate(gate)[0]}: {escape_markdown(f'{gate.stage} {gate.gate}'.strip())}: "
            f"{escape_markdown(gate.message, 300)}"
            for gate in view.report.gates.values()
        )


def _render_training(view: ReportView) -> Iterator[str]:
    for stage in view.report.training_started:
        yield f"## Training {escape_markdown(stage)}".rstrip()
        lines = plot_curve(build_loss_curve(view.report, stage))
        if lines:
            yield "\n".join(["```text", *lines, "```"])
        facts = describe_stage(view.report, stage)
        yield render_table(
            ["", ""], [[key, escape_markdown(value, 200)] for key, value in facts.items()]
        )
    if view.fit is not None:
        yield f"Fit: {view.fit.state}; {escape_markdown(view.fit.sentence, 600)}"


def _render_predictions(view: ReportView) -> Iterator[str]:
    if view.predictions:
        yield "## Predicted and actual"
        yield render_table(
            ["", "predicted", "actual", ""],
            [[p.quantity, p.predicted, p.measured, p.judgment] for p in view.predictions],
        )


def _render_parts(view: ReportView) -> Iterator[str]:
    """Yield the scores by field, and the confused labels."""
    if view.field_scores:
        yield "## Right answers by field"
        models = list(view.field_scores[0].right)
        yield render_table(
            ["field", *map(format_code_span, models)],
            [
                [format_code_span(score.name), *(score.format(model) for model in models)]
                for score in view.field_scores
            ],
            right=len(models),
        )
    if view.confusions is not None and view.confusions.worst:
        yield "## Most confused labels"
        yield render_table(
            ["expected", "answered", "rows"],
            [
                [format_code_span(expected), format_code_span(given), f"{count:,}"]
                for expected, given, count in view.confusions.worst[:MAX_PAIRS]
            ],
            right=1,
        )


def _render_answers(view: ReportView, max_rows: int) -> Iterator[str]:
    answers = view.intact_answers
    if answers is None or not answers.wrong or not max_rows:
        return
    yield f"## {answers.summary}"
    for found in join_similar_rows(answers.wrong)[:max_rows]:
        row = found.row
        answered = [(format_code_span(answer.model), answer.shown) for answer in row.answers]
        source = ", ".join(filter(None, [row.source, found.note]))
        cells = [("row", source), *row.asked, *answered]
        yield "\n".join(
            f"- {label}: {format_code_span(text, MAX_CHARACTERS)}" for label, text in cells
        )
