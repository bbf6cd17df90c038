"""Print results on stdout and notes on stderr.

All text passes through ``safe_text``, and rich's markup is off. Therefore, text from users, models
and plugins cannot control the terminal.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tunesmith.errors import UsageError
from tunesmith.storage.atomic import encode_json
from tunesmith.terminal import supports_color
from tunesmith.text import redact, redact_all, safe_text
from tunesmith_cli.common import CliState

PIPE_WIDTH = 1000
"""Width in columns if stdout is not a terminal; wide enough not to wrap lines in a pipe or file."""

SEPARATOR = "   "
"""Text between two columns of a table."""
MAX_WORD = 24
"""Longer words of a text, such as addresses, may be folded in a table."""
_IN = (0, 0, 0, 2)

TableCell = str | tuple[str, str]
"""Text to print: a string, or a pair of a string and the name of its style."""


def print_text(text: str = "", *, style: str = "") -> None:
    """Print a result on stdout, so that its text cannot control the terminal."""
    _print_lines(sys.stdout, text, style)


def print_paragraph(text: str, *, style: str = "", indent: str = "") -> None:
    """Print text on stdout, wrapped at the width of the terminal if there is one."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    wrapped = textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,  # names, paths and commands stay whole
    )
    print_text("\n".join(wrapped), style=style)


def print_note(text: str, *, style: str = "") -> None:
    """Print a note on stderr, unless ``--quiet`` is set."""
    context = click.get_current_context(silent=True)
    if context is None or not context.ensure_object(CliState).quiet:
        _print_lines(sys.stderr, text, style)


def print_json(value: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print JSON on stdout as ASCII, on one line if ``indent`` is None."""
    print_text(encode_json(redact_all(value), indent=indent))


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[TableCell]], *, right: Sequence[int] = ()
) -> None:
    """Print a table on stdout. ``right`` contains the indices of the right-aligned columns.

    Names in the first column and numbers are never cut. If the terminal is too narrow for a table,
    print the name of each row, and each of its other cells on a line below.
    """
    width = create_console().width
    if _min_width(headers, rows, right) <= width:
        print_renderable(build_table(headers, rows, right))
        return
    for row in rows:
        name, style = (row[0], "") if isinstance(row[0], str) else row[0]
        print_text(name, style=style or "strong")
        for header, value in zip(headers[1:], row[1:], strict=True):
            cell = build_text(value) if isinstance(value, str) else build_text(*value)
            if cell.plain:
                print_renderable(Padding(Text.assemble(f"{header}: " if header else "", cell), _IN))


def _min_width(
    headers: Sequence[str], rows: Sequence[Sequence[TableCell]], right: Sequence[int]
) -> int:
    """Return the width below which a table must cut or fold a name or a number."""
    total = 0
    for index, header in enumerate(headers):
        cells = [header, *(c if isinstance(c, str) else c[0] for c in (row[index] for row in rows))]
        if index and index not in right:  # text, which is wrapped between words
            cells = [word[:MAX_WORD] for cell in cells for word in cell.split()]
        total += max(map(cell_len, cells), default=0) + len(SEPARATOR)
    return total - len(SEPARATOR)


def build_table(
    headers: Sequence[str], rows: Sequence[Sequence[TableCell]], right: Sequence[int] = ()
) -> Table:
    """Build a table of texts. ``right`` contains the indices of the right-aligned columns."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        is_right = index in right
        justify: JustifyMethod = "right" if is_right else "left"
        table.add_column(header, justify=justify, no_wrap=is_right or not index)
    for row in rows:
        table.add_row(*(build_text(c) if isinstance(c, str) else build_text(*c) for c in row))
    return table


def build_text(text: str, style: str = "") -> Text:
    """Return a Rich ``Text`` with control characters made safe and secrets redacted."""
    return Text(redact(safe_text(text)), style=_RICH[style])


def create_console() -> Console:
    """Create a console on stdout without markup, with colors if stdout supports them."""
    colors = supports_color(sys.stdout)
    return Console(
        file=sys.stdout,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
        no_color=not colors,
        force_terminal=colors,
    )


def print_renderable(renderable: RenderableType) -> None:
    """Print a table or another rich object on stdout."""
    console = create_console()
    with console.capture() as captured:
        console.print(renderable)
    lines = (line.rstrip() for line in captured.get().splitlines())
    click.echo("\n".join(lines), color=supports_color(sys.stdout))


def write_new_file(path: Path, texts: Iterable[str]) -> int:
    """Write texts to a new file, and return the number of texts.

    Raises:
        UsageError: the file already exists, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            return sum(1 for text in texts if file.write(text) >= 0)
    except FileExistsError:
        raise UsageError(f"{path}: already exists", hint="choose a new file name") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def shell_path(path: Path) -> str:
    """Return a path quoted for the shell, relative if it is inside the current folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _print_lines(stream: TextIO, text: str, style: str) -> None:
    clean = redact(safe_text(text))
    if style and supports_color(stream):
        click.echo(click.style(clean, **_STYLES[style]), file=stream, color=True)
    else:
        click.echo(clean, file=stream)


_RICH = {"": "", "good": "green", "bad": "red", "warning": "yellow", "dim": "dim", "strong": "bold"}
"""The style in rich's syntax for each style name."""
_STYLES: dict[str, dict[str, Any]] = {
    name: {rich: True} if rich in ("dim", "bold") else {"fg": rich} for name, rich in _RICH.items()
}
"""The same styles as arguments of click's functions."""
