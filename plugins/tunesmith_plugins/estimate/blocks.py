"""Print lines and tables; on a terminal, replace them when better estimates arrive."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.text import Text

from tunesmith.terminal import supports_live_display
from tunesmith_cli import render
from tunesmith_cli.render import TableCell


@dataclass(frozen=True)
class TextLine:
    """A line of the output, with a style."""

    text: str = ""
    style: str = ""


@dataclass(frozen=True)
class TableBlock:
    """A table of the output. ``right`` contains the indices of the right-aligned columns."""

    headers: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    right: Sequence[int] = ()


Block = TextLine | TableBlock


def print_blocks(blocks: Sequence[Block]) -> None:
    """Print lines and tables on stdout."""
    for block in blocks:
        if isinstance(block, TableBlock):
            render.print_table(block.headers, block.rows, right=block.right)
        else:
            render.print_paragraph(block.text, style=block.style)


@contextmanager
def show_temporarily(blocks: Sequence[Block]) -> Iterator[bool]:
    """Show lines and tables while the ``with`` block computes a better result.

    On a terminal with a live display, the output disappears when the block ends. Elsewhere it
    stays.

    Yields:
        True if the output stays.
    """
    if not supports_live_display(sys.stdout):
        print_blocks(blocks)
        render.print_text()
        sys.stdout.flush()
        yield True
        return
    built = [
        render.build_table(block.headers, block.rows, block.right)
        if isinstance(block, TableBlock)
        else render.build_text(block.text, block.style)
        for block in blocks
    ]
    console = render.create_console()
    with console.capture() as captured:
        console.print(Group(*built))
    lines = captured.get().splitlines()
    height = console.height - 2  # Lines that have scrolled off the screen could not be removed.
    if len(lines) > height:
        lines = [*lines[: max(0, height - 2)], "...", lines[-1]]
    content = Text.from_ansi("\n".join(lines))
    with Live(content, console=console, transient=True, auto_refresh=False):
        yield False
