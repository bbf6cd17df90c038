"""Results on stdout, remarks on stderr: the only place of the core that draws.

Whatever is printed here passes ``safe_text`` first, and rich reads no markup into it: text of
users, models and plugins is shown, never obeyed.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.atomic import encode_json
from tunesmith.cli.common import State
from tunesmith.terminal import colourful
from tunesmith.text import one_line, redact, safe_text

EMPTY = "(nothing)"
WIDE = 1000
"""Columns where there is no terminal: lines are not broken for a pipe."""


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
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        figures = index in right
        shown.add_column(header, justify="right" if figures else "left", no_wrap=figures)
    for row in rows:
        shown.add_row(*(Text(redact(safe_text(cell))) for cell in row))
    _draw(shown)


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


def _draw(shown: Table) -> None:
    width = None if sys.stdout.isatty() else WIDE
    plain = colourful(sys.stdout)
    console = Console(
        file=sys.stdout,
        markup=False,
        emoji=False,
        highlight=False,
        width=width,
        no_color=not plain,
        force_terminal=plain,
    )
    with console.capture() as captured:
        console.print(shown)
    lines = (line.rstrip() for line in captured.get().splitlines())
    click.echo("\n".join(lines), color=plain)


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


def _quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.ensure_object(State).quiet
