"""The report of a run as Markdown.

Rows and answers stand in code spans, where they are neither markup, nor links, nor mentions of
people; the characters of other text that could be markup are escaped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tunesmith.errors import IntegrityError
from tunesmith.events import TUNED
from tunesmith.execution.report import Report
from tunesmith.text import one_line, redact
from tunesmith_evidence.answers.cut_answers import list_cut
from tunesmith_evidence.fit import diagnose_fit
from tunesmith_evidence.formats import (
    format_count,
    format_date,
    format_interval,
    format_number,
    format_rows,
)
from tunesmith_evidence.report.answers import AnswerRow, Answers, read_answers
from tunesmith_evidence.report.curves import build_loss_curve
from tunesmith_evidence.report.ending import describe_ending
from tunesmith_evidence.report.facts import (
    describe_stage,
    format_reproduction,
    list_predictions,
)
from tunesmith_evidence.report.headline import Headline, find_headline, group_by_metric
from tunesmith_evidence.report.status import find_status
from tunesmith_evidence.report.text_plot import plot_curve

__all__ = ["describe_wrong", "render_markdown"]

MAX_CHARACTERS = 300
"""Characters of a prompt or an answer."""


def render_markdown(report: Report, folder: Path, max_rows: int) -> str:
    """Return the whole report as Markdown.

    Args:
        report: the report of the run.
        folder: the run's folder, which holds the values per record.
        max_rows: most wrong rows to list.
    """
    status = find_status(folder, report)
    headline = find_headline(report, status)
    parts = [
        *render_headline(report, headline, status),
        *_render_ending(report, folder),
        *_render_scores(report),
        *_render_findings(report),
        *_render_gates(report),
        *_render_training(report, folder),
        *_render_predictions(report),
        *_render_answers(folder, report, max_rows),
        "## Reproduction",
        f"```console\n$ {redact(format_reproduction(folder))}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def render_headline(report: Report, headline: Headline, status: str) -> Iterator[str]:
    """Yield the verdict with its figure, and what it was found by."""
    started, finished = report.started, report.finished
    name = (started.name or started.run) if started else "run"
    yield f"# {escape(headline.word)}: {escape(name)}"
    if headline.figure:
        figure = f"{headline.figure}** ({escape(headline.interval)})"
        yield f"**{figure}: {escape(headline.caption, 200)}"
    if headline.sentence:
        yield f"> {escape(headline.sentence, 1_000)}"
    if headline.would_change:
        yield f"It would change with: {escape(headline.would_change, 400)}"
    when = f", started {format_date(started.started)}" if started else ""
    yield f"Status: {escape(status + when)}"
    if finished and finished.error and finished.verdict:
        yield code(finished.error, 1_000)


def _render_ending(report: Report, folder: Path) -> Iterator[str]:
    ending = describe_ending(folder, report)
    if ending is None:
        return
    yield f"**{escape(ending.what, 1_000)}**"
    lines = [f"- Where: {escape(ending.where, 200)}"]
    lines += [f"- To do: {escape(ending.hint, 1_000)}"] if ending.hint else []
    command = redact(ending.format_command(shlex.quote(str(folder))))
    yield "\n".join([*lines, f"- Then: {code(command, 400)}"])


def render_table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """Return a table; its last ``right`` columns are aligned to the right."""
    marks = ["---"] * (len(headers) - right) + ["--:"] * right
    lines = [headers, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str, limit: int = 80) -> str:
    """Return text as a code span on one line, in which nothing is markup."""
    line = one_line(redact(text), limit)
    if not line:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line[0] == "`" or line[-1] == "`" else ""
    # A table ends a cell at a bar, also inside of a code span.
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def escape(text: str, limit: int = 80) -> str:
    """Return text on one line without markup; as a code span where it may be a link or mention."""
    line = one_line(redact(text), limit)
    if re.search(r"@|://|www\.", line):
        return code(text, limit)
    return re.sub(r"([\\`*_\[\]<>#|~&])", r"\\\1", line)


def _render_scores(report: Report) -> Iterator[str]:
    groups = group_by_metric(report)
    if groups:
        yield "## Scores"
    for events in groups:
        label = report.metric_label(events[0].evaluator, events[0].metric)
        better = "higher" if events[0].higher_is_better else "lower"
        validation = " on validation rows" if events[0].part == "validation" else ""
        yield f"{code(label)}{validation}, {better} is better:"
        yield render_table(
            ["model", "value", "95 % interval", "rows"],
            [
                [
                    f"**{TUNED}**" if event.model == TUNED else code(event.model),
                    format_number(event.value),
                    format_interval(event.low, event.high),
                    format_rows(event.n, event.units),
                ]
                for event in events
            ],
            right=3,
        )
        if cut := list_cut(events):
            yield f"Answers {cut}."


def _render_findings(report: Report) -> Iterator[str]:
    findings = [finding for finding in report.findings if finding.level != "info"]
    if findings:
        yield "## Findings"
        yield "\n".join(
            f"- {finding.level}: {escape(finding.source)}: {escape(finding.text, 600)}"
            for finding in findings
        )


def _render_gates(report: Report) -> Iterator[str]:
    if report.gates:
        yield "## Gates"
        yield "\n".join(
            f"- {'passed' if gate.passed else 'accepted' if gate.accepted else '**not passed**'}: "
            f"{escape(gate.stage)} {escape(gate.gate)}: {escape(gate.message, 300)}"
            for gate in report.gates.values()
        )


def _render_training(report: Report, folder: Path) -> Iterator[str]:
    for stage in report.training_started:
        yield f"## Training {escape(stage)}".rstrip()
        lines = plot_curve(build_loss_curve(report, stage))
        if lines:
            yield "\n".join(["```text", *lines, "```"])
        facts = describe_stage(report, stage)
        yield render_table(["", ""], [[key, escape(value, 200)] for key, value in facts.items()])
    fit = diagnose_fit(folder, report)
    if fit is not None:
        yield f"Fit: {fit.state}; {escape(fit.sentence, 600)}"


def _render_predictions(report: Report) -> Iterator[str]:
    rows = list_predictions(report)
    if rows:
        yield "## Predicted and actual"
        yield render_table(
            ["", "predicted", "actual", ""],
            [[row.quantity, row.predicted, row.measured, row.judgement] for row in rows],
        )


def _render_answers(folder: Path, report: Report, max_rows: int) -> Iterator[str]:
    try:
        answers = read_answers(folder, report)
    except IntegrityError:
        return
    if answers is None or not answers.wrong or not max_rows:
        return
    yield f"## {describe_wrong(answers)}"
    for row in answers.wrong[:max_rows]:
        yield "\n".join(f"- {label}: {code(text, MAX_CHARACTERS)}" for label, text in _cells(row))


def describe_wrong(answers: Answers) -> str:
    """Return how many rows are wrong, and how many rows got worse."""
    wrong, worse = len(answers.wrong), len(answers.regressed)
    text = f"{format_count(wrong, 'row')} of {len(answers.rows):,} not right"
    if not answers.has_best:
        text = f"the worst {wrong:,} of {format_count(len(answers.rows), 'row')}"
    return f"{text}, {worse:,} on which another model did better" if worse else text


def _cells(row: AnswerRow) -> Iterator[tuple[str, str]]:
    yield "row", row.source
    if row.question:
        yield "prompt", row.question
    yield "expected", row.expected
    for answer in row.answers:
        yield code(answer.model), answer.text.strip() or "(empty)"
