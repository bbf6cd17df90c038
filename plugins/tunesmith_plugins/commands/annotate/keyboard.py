"""Read single keys from a terminal, without waiting for Enter and without echo."""

from __future__ import annotations

import os
import select
import termios
import tty

ESCAPE = b"\x1b"
ESCAPE_TIMEOUT = 0.05
"""Seconds to wait for the rest of an arrow key's escape sequence."""


class Keyboard:
    """A terminal in cbreak mode: every key is available immediately and is not echoed.

    The mode stays on between keys, so that keys typed while a choice is being saved are not lost.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Keyboard:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSANOW)
        return self

    def __exit__(self, *error: object) -> None:
        termios.tcsetattr(self._fd, termios.TCSANOW, self._before)

    def __call__(self) -> str:
        """Read one key, and return it. An arrow key is returned as its complete escape sequence.

        Raises:
            EOFError: the terminal was closed.
        """
        key = self._read_byte()
        if key == ESCAPE:
            while len(key) < 3 and self._has_input():
                key += self._read_byte()
        while len(key) < _utf8_length(key):
            key += self._read_byte()
        return key.decode("utf-8", "replace")

    def _read_byte(self) -> bytes:
        try:
            data = os.read(self._fd, 1)
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return data

    def _has_input(self) -> bool:
        return bool(select.select([self._fd], [], [], ESCAPE_TIMEOUT)[0])


def _utf8_length(key: bytes) -> int:
    """Return the length in bytes of the UTF-8 character that starts with ``key``."""
    first = key[0]
    return 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2 if first >= 0xC0 else 1
