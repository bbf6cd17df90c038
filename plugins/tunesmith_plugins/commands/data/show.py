"""``tunesmith data show``: page through rows as the model sees them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import click

from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith.terminal import supports_color, supports_pictures
from tunesmith.text import one_line, redact, redact_all, safe_text
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_cli.data_source import DataSource, data_argument
from tunesmith_plugins.commands.data.open_data import OpenedData, open_data, text_parts
from tunesmith_plugins.commands.data.tokens import (
    TokenizedRow,
    create_tokenize,
    describe_thinking_modes,
)

PICTURE_SIDE = 32
"""Longer side of a picture, in characters."""


@dataclass(frozen=True)
class Filter:
    """The conditions that a row must meet to be shown."""

    part: str
    source: str | None
    min_length: int
    max_length: int | None

    def accepts(self, record: Record, length: int) -> bool:
        """Return True if the source matches and the length is within the limits."""
        if self.source is not None and self.source not in record.source:
            return False
        return self.min_length <= length and (self.max_length is None or length <= self.max_length)


@dataclass(frozen=True)
class ShownRow:
    """A row with its length in characters or tokens and, with ``--tokens``, its tokens."""

    record: Record
    length: int
    tokenized: list[TokenizedRow] | None = None
    problem: str = ""


@click.command("show")
@data_argument
@click.option(
    "--part",
    type=click.Choice(["all", "train", "validation", "test"]),
    default="all",
    show_default=True,
)
@click.option(
    "--source", metavar="TEXT", help="Only rows whose source (file and line) contains this text."
)
@click.option(
    "--min-length", type=click.IntRange(0), default=0, help="Only rows of at least this length."
)
@click.option("--max-length", type=click.IntRange(0), help="Only rows of at most this length.")
@click.option(
    "--start", type=click.IntRange(1), default=1, help="First row to show; rows are counted from 1."
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="Number of rows. Default: all rows in a terminal or with --json, otherwise 10.",
)
@click.option("--tokens", is_flag=True, help="Show tokens, and measure lengths in tokens.")
@click.option("--skipped", is_flag=True, help="Show the skipped rows instead, with the reason.")
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    data: DataSource,
    part: str,
    source: str | None,
    min_length: int,
    max_length: int | None,
    start: int,
    count: int | None,
    tokens: bool,
    skipped: bool,
    as_json: bool,
) -> None:
    """Print rows as the model sees them, and highlight the text that it is trained on.

    With --tokens, rows are rendered with the model's chat template, including special tokens. On a
    terminal, all rows open in a pager. Lengths are in characters, or in tokens with --tokens.
    """
    opened = open_data(data, state)
    is_paged = sys.stdout.isatty() and count is None and not as_json
    stop = start - 1 + (count or (sys.maxsize - start if is_paged or as_json else 10))
    if skipped:
        chosen: Iterator[Any] = iter(opened.dataset.skipped)
        lines = _skipped_lines(islice(chosen, start - 1, stop), as_json)
    else:
        limits = Filter(part, source, min_length, max_length)
        rows = islice(_find_rows(opened, limits, tokens), start - 1, stop)
        lines = (_to_json(row) if as_json else _to_text(row) for row in rows)
    for mode in describe_thinking_modes(opened.plan) if tokens else ():
        render.print_note(mode)
    color = supports_color(sys.stdout)
    if is_paged:
        click.echo_via_pager((line + "\n" for line in lines), color=color)
        return
    for line in lines:
        click.echo(line, color=color)


def _find_rows(opened: OpenedData, limits: Filter, tokens: bool) -> Iterator[ShownRow]:
    tokenize = create_tokenize(opened.plan) if tokens else None
    for record in opened.records(limits.part):
        row = ShownRow(record, sum(len(text) for _, text, _ in text_parts(record)))
        if tokenize is not None:
            try:
                examples = tokenize(record)
                row = ShownRow(record, sum(e.tokens for e in examples), examples)
            except DataError as error:
                row = ShownRow(record, 0, [], error.message)
        if limits.accepts(record, row.length):
            yield row


def _to_json(row: ShownRow) -> str:
    record = row.record
    parts = [{"label": a, "text": b, "trained": c} for a, b, c in text_parts(record)]
    value: dict[str, Any] = {"source": record.source, "group": record.group, "parts": parts}
    if row.tokenized is not None:
        value["tokens"] = row.length
        value["trained_tokens"] = sum(example.trained_tokens for example in row.tokenized)
        value["problem"] = row.problem
    return json.dumps(redact_all(value))


def _to_text(row: ShownRow) -> str:
    """Return a row as lines of text, with marks and colors for the text that is trained on."""
    unit = "characters" if row.tokenized is None else "tokens"
    title = f"{one_line(row.record.source)}: {row.length:,} {unit}"
    if row.tokenized is None:
        lines = [
            _format(f"{label:<10}", t, trained) for label, t, trained in text_parts(row.record)
        ]
        lines += _draw_media(row.record)
        return "\n".join([_style(title, "strong"), *lines, ""])
    trained = sum(example.trained_tokens for example in row.tokenized)
    lines = [_style(f"{title} ({trained:,} trained on)", "strong")]
    lines += ["".join(_format_run(*run) for run in example.runs) for example in row.tokenized]
    if row.problem:
        lines.append(_style(f"skipped: {row.problem}", "bad"))
    return "\n".join([*lines, ""])


def _draw_media(record: Record) -> Iterator[str]:
    """Yield the lines of a row's pictures, if the terminal can show them.

    A character shows two pixels: the upper half block has the color of the upper one.
    """
    if not supports_pictures(sys.stdout):
        return
    for part in (part for message in getattr(record, "messages", ()) for part in message.media):
        if (picture := part.preview(PICTURE_SIDE)) is None:
            continue
        size = 3 * picture.width
        lines = [picture.pixels[at : at + size] for at in range(0, len(picture.pixels), size)]
        for upper, lower in zip_longest(lines[::2], lines[1::2], fillvalue=b""):
            yield "".join(
                click.style(
                    "▀",
                    fg=tuple(upper[at : at + 3]),
                    bg=tuple(lower[at : at + 3]) or None,
                )
                for at in range(0, size, 3)
            )


def _format(label: str, text: str, trained: bool) -> str:
    mark = "| " if trained else "  "
    shown = _clean(text).split("\n")
    first = f"{mark}{label}{shown[0]}"
    rest = [f"{mark}{' ' * len(label)}{line}" for line in shown[1:]]
    return "\n".join(_style(line, "trained" if trained else "dim") for line in (first, *rest))


def _format_run(text: str, trained: bool) -> str:
    clean = _clean(text)
    if supports_color(sys.stdout):
        return _style(clean, "trained" if trained else "dim")
    return f"⟦{clean}⟧" if trained else clean


def _skipped_lines(rows: Iterator[Any], as_json: bool) -> Iterator[str]:
    for row in rows:
        value = {"where": row.where, "cause": row.cause, "detail": row.detail, "row": row.row}
        if as_json:
            yield json.dumps(redact_all(value))
        else:
            title = _style(f"{one_line(row.where)}: {one_line(row.cause)}", "strong")
            detail = f" ({one_line(row.detail)})" if row.detail else ""
            yield f"{title}{detail}\n  {one_line(redact(row.row), 200)}\n"


def _clean(text: str) -> str:
    return redact(safe_text(text))


def _style(text: str, style: str) -> str:
    if not supports_color(sys.stdout):
        return text
    return click.style(text, **_STYLES[style])


_STYLES: dict[str, dict[str, Any]] = {
    "strong": {"bold": True},
    "trained": {"fg": "green"},
    "dim": {"dim": True},
    "bad": {"fg": "red"},
}
