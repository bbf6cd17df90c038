"""Annotate pairs on the terminal: two answers side by side, one key per choice.

A session saves every choice before it shows the next pair. However a session ends, the next one
continues with the undecided pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.errors import UsageError
from tunesmith.text import safe_text
from tunesmith_plugins.commands.annotate.pairs import Pair, read_pairs, write_pairs

ACTIONS = {
    "\x1b[D": "left",
    "\x1bOD": "left",
    "h": "left",
    "1": "left",
    "\x1b[C": "right",
    "\x1bOC": "right",
    "l": "right",
    "2": "right",
    "t": "tie",
    "s": "skip",
    "b": "back",
    "\x7f": "back",
    "q": "quit",
    "\x03": "quit",
    "\x04": "quit",
}
HELP = "← or 1: left   → or 2: right   t: tie   s: skip   b: back   q: quit"


@dataclass
class Session:
    """An annotation session for the pairs of a file."""

    path: Path
    read_key: Callable[[], str]
    console: Console = field(
        default_factory=lambda: Console(markup=False, emoji=False, highlight=False)
    )
    pairs: list[Pair] = field(init=False)
    _on_disk: bytes = field(init=False)
    _visited: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pairs = read_pairs(self.path)
        self._on_disk = self.path.read_bytes()

    def run(self) -> None:
        """Ask about each undecided pair, until every pair is decided or the person quits."""
        index = self._next_open(0)
        while index is not None:
            self._show(index)
            match self._read_action():
                case "quit":
                    return
                case "back":
                    index = self._visited.pop() if self._visited else index
                case choice:
                    self._save_choice(index, choice)
                    self._visited.append(index)
                    index = self._next_open(index + 1)

    def _next_open(self, start: int) -> int | None:
        """Return the index of the first undecided pair from ``start``, wrapping around."""
        indices = [*range(start, len(self.pairs)), *range(start)]
        return next((index for index in indices if not self.pairs[index].choice), None)

    def _read_action(self) -> str:
        """Read keys until one stands for an action, and return the action."""
        while True:
            try:
                key = self.read_key()
            except (EOFError, KeyboardInterrupt):
                return "quit"
            action = ACTIONS.get(key) or ACTIONS.get(key.lower())
            if action is not None:
                return action

    def _save_choice(self, index: int, choice: str) -> None:
        """Write a choice to the file.

        Raises:
            UsageError: another program changed the file during the session.
        """
        if self.path.read_bytes() != self._on_disk:
            raise UsageError(
                f"{self.path}: another program changed this file during the session",
                hint="start the command again to continue with the changed file",
            )
        pairs = [*self.pairs]
        pairs[index] = pairs[index].with_choice(choice)
        self._on_disk = write_pairs(self.path, pairs)
        self.pairs = pairs

    def _show(self, index: int) -> None:
        pair = self.pairs[index]
        done = sum(bool(other.choice) for other in self.pairs)
        self.console.clear()
        title = f"pair {index + 1} of {len(self.pairs)}, {done} done"
        self.console.print(title + (f", previous choice: {pair.choice}" if pair.choice else ""))
        for message in pair.prompt:
            self.console.print(Text(f"\n{message.role}: {safe_text(message.text)}"))
        table = Table(box=SIMPLE_HEAD, show_edge=False, expand=True)
        for name in ("left", "right"):
            table.add_column(name, ratio=1, overflow="fold")
        table.add_row(Text(safe_text(pair.left)), Text(safe_text(pair.right)))
        self.console.print()
        self.console.print(table)
        self.console.print(Text(f"\n{HELP}", style="dim"))
