"""Results on stdout, remarks on stderr: the only place of the core that draws.

Whatever is printed here passes ``safe_text`` first, and rich reads no markup into it: text of
users, models and plugins is shown, never obeyed.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunesmith.cli.common import State
from tunesmith.storage.atomic import encode_json
from tunesmith.terminal import colourful, lively
from tunesmith.text import one_line, redact, safe_text

EMPTY = "(nothing)"
WIDE = 1000
"""Columns where there is no terminal: lines are not broken for a pipe."""


Cell = str | tuple[str, str]
"""A text, or a text and its style."""


@dataclass(frozen=True)
class Line:
    """A line of a result."""

    text: str = ""
    style: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table of a result; ``right`` names the columns of figures."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: Sequence[int] = ()


Block = Line | Sheet


def say(text: str = "", *, style: str = "") -> None:
    """Print lines of a result on stdout."""
    _print(sys.stdout, text, style)


def paragraph(text: str, *, style: str = "") -> None:
    """Print prose of a result on stdout, broken between words where there is a terminal."""
    if sys.stdout.isatty():
        text = "\n".join(textwrap.wrap(text, shutil.get_terminal_size().columns))
    say(text, style=style)


def remark(text: str, *, style: str = "") -> None:
    """Print a remark on stderr, unless ``--quiet`` asks for results only."""
    if not _quiet():
        _print(sys.stderr, text, style)


def data(value: Mapping[str, Any]) -> None:
    """Print JSON on stdout: ASCII only, so that nothing in it can steer a terminal."""
    say(encode_json(_redacted(value), indent=2))


def data_line(value: Mapping[str, Any]) -> None:
    """Print one JSON object as one line."""
    say(encode_json(_redacted(value)))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print a table on stdout; ``right`` names the columns of figures."""
    _draw(_table(Sheet(headers, rows, right)))


def blocks(found: Sequence[Block]) -> None:
    """Print lines and tables on stdout."""
    for block in found:
        if isinstance(block, Sheet):
            _draw(_table(block))
        else:
            paragraph(block.text, style=block.style)


@contextmanager
def provisional(found: Sequence[Block]) -> Iterator[bool]:
    """Show lines and tables while something better is worked on.

    On a terminal that can, they go again when the work is done; elsewhere they stay, and the block
    is told so.
    """
    if not lively(sys.stdout):
        blocks(found)
        say()
        sys.stdout.flush()
        yield True
        return
    drawn = [_table(b) if isinstance(b, Sheet) else _text(b.text, b.style) for b in found]
    console = _console()
    with console.capture() as captured:
        console.print(Group(*drawn))
    lines = captured.get().splitlines()
    room = console.height - 2  # what has left the screen cannot be taken back
    if len(lines) > room:
        lines = [*lines[: max(0, room - 2)], "...", lines[-1]]
    shown = Text.from_ansi("\n".join(lines))
    with Live(shown, console=console, transient=True, auto_refresh=False):
        yield False


def beside(columns: Mapping[str, str]) -> None:
    """Print texts side by side under their names; below each other where there is no terminal."""
    if not sys.stdout.isatty():
        for name, text in columns.items():
            say(f"{one_line(name)}: {text}")
        return
    shown = Table(box=SIMPLE_HEAD, show_edge=False, expand=True, header_style="bold")
    for name in columns:
        shown.add_column(Text(safe_text(name)), ratio=1, overflow="fold")
    shown.add_row(*(Text(redact(safe_text(text or EMPTY))) for text in columns.values()))
    _draw(shown)


def _redacted(value: Any) -> Any:
    """The value without secrets: string by string, so that what is printed stays JSON."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(item) for item in value]
    return value


def _table(sheet: Sheet) -> Table:
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, header in enumerate(sheet.headers):
        figures = index in sheet.right
        shown.add_column(header, justify="right" if figures else "left", no_wrap=figures)
    for row in sheet.rows:
        shown.add_row(*(_text(cell) if isinstance(cell, str) else _text(*cell) for cell in row))
    return shown


def _text(text: str, style: str = "") -> Text:
    return Text(redact(safe_text(text)), style=_RICH[style])


def _console() -> Console:
    colours = colourful(sys.stdout)
    return Console(
        file=sys.stdout,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if sys.stdout.isatty() else WIDE,
        no_color=not colours,
        force_terminal=colours,
    )


def _draw(shown: RenderableType) -> None:
    console = _console()
    with console.capture() as captured:
        console.print(shown)
    lines = (line.rstrip() for line in captured.get().splitlines())
    click.echo("\n".join(lines), color=colourful(sys.stdout))


def _print(stream: TextIO, text: str, style: str) -> None:
    clean = redact(safe_text(text))
    if style and colourful(stream):
        styled = click.style(clean, **_STYLES[style])
        click.echo(styled, file=stream, color=True)
    else:
        click.echo(clean, file=stream)


_STYLES: dict[str, dict[str, Any]] = {
    "good": {"fg": "green"},
    "bad": {"fg": "red"},
    "odd": {"fg": "yellow"},
    "dim": {"dim": True},
    "strong": {"bold": True},
}


_RICH = {
    "": "",
    "good": "green",
    "bad": "red",
    "odd": "yellow",
    "dim": "dim",
    "strong": "bold",
}
"""The same styles, by the names that rich has for them."""


def _quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.ensure_object(State).quiet
