"""Answers of the base model, the verdict's baseline and the tuned model, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith_evidence.report.answers import Answer, AnswerRow, Answers
from tunesmith_tui.cells import heading, join, paragraph, shown

FILTERS = ("all", "regressed", "wrong")
MAX_LISTED = 2_000


def filter_rows(answers: Answers, kept: str) -> Sequence[AnswerRow]:
    """Return the rows of a filter: those on which the tuned model regressed come first."""
    return {"regressed": answers.regressed, "wrong": answers.wrong}.get(kept, answers.rows)


def describe_rows(answers: Answers, kept: str) -> str:
    """Return how many rows a filter keeps, how many of them are listed, and the summary."""
    count = len(filter_rows(answers, kept))
    listed = f", the first {MAX_LISTED:,} listed" if count > MAX_LISTED else ""
    return f"{kept}: {count:,}{listed}. {answers.summary}"


def list_cells(row: AnswerRow, width: int) -> list[Text]:
    """Return the cells of a row in the list: its state, and the start of its question."""
    state = Text("ok", "green")
    if row.is_regressed:
        state = Text("regressed", "bold red")
    elif row.is_partly_right:
        state = Text("partly", "yellow")
    elif row.is_wrong:
        state = Text("wrong", "red")
    return [state, shown(row.question or row.source, max(10, width - 14))]


def render_answer(row: AnswerRow, label: str) -> RenderableType:
    """Return the metric, a row's question, its expected answer, and all answers in columns."""
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in row.answers:
        table.add_column(ratio=1)
    table.add_row(*(_mark(answer) + shown(answer.model, 24, "bold") for answer in row.answers))
    table.add_row(*(paragraph(answer.shown) for answer in row.answers))
    asked = (Text(f"{label}: ", "dim") + paragraph(text) for label, text in row.asked)
    return Group(
        join((shown(label, 40, "bold"), shown(row.source, 60, "dim"))),
        *asked,
        heading("Answers"),
        table,
    )


def _mark(answer: Answer) -> Text:
    """Return whether an answer is right, if its metric has a best value."""
    if answer.is_right is None:
        return Text("")
    if answer.is_partly_right:
        return Text("~ ", "yellow")
    return Text("✓ ", "green") if answer.is_right else Text("✗ ", "red")
