"""Single keys from a terminal, without Enter and without echo."""

from __future__ import annotations

import os
import select
import termios
import tty
from types import TracebackType

ESCAPE = b"\x1b"
PATIENCE = 0.05
"""Seconds within which the rest of an arrow key follows its first byte."""


class Keyboard:
    """A terminal that hands over every key at once, as long as it is open.

    It stays so between two keys: what is typed while a choice is saved is not lost.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Keyboard:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSANOW)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        termios.tcsetattr(self._fd, termios.TCSANOW, self._before)

    def __call__(self) -> str:
        """The next key; an arrow key is its whole escape sequence.

        Raises:
            EOFError: the terminal is gone.
        """
        key = self._byte()
        if key == ESCAPE:
            while len(key) < 3 and self._more():
                key += self._byte()
        while len(key) < _length(key):
            key += self._byte()
        return key.decode("utf-8", "replace")

    def _byte(self) -> bytes:
        try:
            found = os.read(self._fd, 1)
        except OSError:
            found = b""
        if not found:
            raise EOFError
        return found

    def _more(self) -> bool:
        return bool(select.select([self._fd], [], [], PATIENCE)[0])


def _length(key: bytes) -> int:
    """How many bytes the character takes that begins so."""
    first = key[0]
    return 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2 if first >= 0xC0 else 1
