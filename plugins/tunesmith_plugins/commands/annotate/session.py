"""A session in the terminal: two answers beside each other, one key for each choice.

Every choice is on disk before the next pair is shown, so a session may end in any way and goes on
where it stopped.
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
from tunesmith_plugins.commands.annotate.pairs import Pair, read, write

KEYS = {
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
    """The pairs of a file, and the place in it."""

    path: Path
    key: Callable[[], str]
    console: Console = field(
        default_factory=lambda: Console(markup=False, emoji=False, highlight=False)
    )
    pairs: list[Pair] = field(init=False)
    _on_disk: bytes = field(init=False)
    _visited: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pairs = read(self.path)
        self._on_disk = self.path.read_bytes()

    def run(self) -> None:
        """Ask about every open pair, until there is none or the person leaves."""
        at = self._next(0)
        while at is not None:
            self._show(at)
            match self._pressed():
                case "quit":
                    return
                case "back":
                    at = self._visited.pop() if self._visited else at
                case choice:
                    self._choose(at, choice)
                    self._visited.append(at)
                    at = self._next(at + 1)

    def _next(self, start: int) -> int | None:
        """The next open pair, from a place on and then from the front."""
        places = [*range(start, len(self.pairs)), *range(start)]
        return next((place for place in places if not self.pairs[place].choice), None)

    def _pressed(self) -> str:
        """What the next key that means something means."""
        while True:
            try:
                pressed = self.key()
            except (EOFError, KeyboardInterrupt):
                return "quit"
            meaning = KEYS.get(pressed) or KEYS.get(pressed.lower())
            if meaning is not None:
                return meaning

    def _choose(self, at: int, choice: str) -> None:
        """Save the choice.

        Raises:
            UsageError: somebody else wrote the file meanwhile.
        """
        if self.path.read_bytes() != self._on_disk:
            raise UsageError(
                f"{self.path}: was changed by somebody else while the session was open",
                hint="start the session again: it goes on from what is in the file",
            )
        pairs = [*self.pairs]
        pairs[at] = pairs[at].chosen(choice)
        self._on_disk = write(self.path, pairs)
        self.pairs = pairs

    def _show(self, at: int) -> None:
        pair = self.pairs[at]
        done = sum(bool(other.choice) for other in self.pairs)
        self.console.clear()
        title = f"pair {at + 1} of {len(self.pairs)}, {done} done"
        self.console.print(title + (f", chosen before: {pair.choice}" if pair.choice else ""))
        for message in pair.prompt:
            self.console.print(Text(f"\n{message.role}: {safe_text(message.content)}"))
        table = Table(box=SIMPLE_HEAD, show_edge=False, expand=True)
        for name in ("left", "right"):
            table.add_column(name, ratio=1, overflow="fold")
        table.add_row(Text(safe_text(pair.left)), Text(safe_text(pair.right)))
        self.console.print()
        self.console.print(table)
        self.console.print(Text(f"\n{HELP}", style="dim"))
