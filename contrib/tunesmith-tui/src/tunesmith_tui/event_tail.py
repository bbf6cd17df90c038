"""Read the lines of a growing log, each of them once."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 18
"""Bytes to read at once."""
MAX_LINE = 1 << 24
"""A longer line is skipped as damaged, so that a damaged log cannot fill the memory."""


@dataclass
class EventTail:
    """The position up to which a log has been read."""

    path: Path
    offset: int = 0
    """Position after the last complete line that was read."""
    size: int = 0
    modified: float = 0.0
    """Time of the last change that was seen."""
    exists: bool = False
    _file: tuple[int, int] | None = None
    """Device and inode, to notice that another file has replaced the log."""
    _incomplete: int = 0
    """Bytes after ``offset`` that were read but do not end a line."""
    _reach: int = CHUNK
    _is_skipping: bool = False

    @property
    def is_behind(self) -> bool:
        """True if the log has bytes that were not read."""
        return self.size > self.offset + self._incomplete

    def check(self) -> bool:
        """Look at the size of the log.

        Returns:
            True if the log was replaced or cut, so that it is read from its start again.
        """
        try:
            status = os.stat(self.path)
        except OSError:
            status = None
        # A pipe would block the reader.
        self.exists = status is not None and stat.S_ISREG(status.st_mode)
        if status is None or not self.exists:
            self.size = self.offset
            return False
        file, is_first = (status.st_dev, status.st_ino), self._file is None
        restarts = not is_first and (file != self._file or status.st_size < self.offset)
        if restarts:
            self.offset, self._reach, self._is_skipping = 0, CHUNK, False
        if restarts or status.st_size < self.offset + self._incomplete:
            self._incomplete = 0  # a resumed run has removed an incomplete line
        self._file, self.size, self.modified = file, status.st_size, status.st_mtime
        return restarts

    def read(self) -> list[bytes]:
        """Return the complete lines of the next chunk; an empty one stands for a skipped line."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self._reach)
        except OSError:
            self.exists, self.size = False, self.offset
            return []
        end = data.rfind(b"\n") + 1
        is_full = len(data) == self._reach
        self.offset, self._incomplete = self.offset + end, len(data) - end
        if not data:  # cut since the last check
            self.size = self.offset
        if end or not is_full:
            self._reach = CHUNK
        elif self._reach < MAX_LINE:
            self._reach *= 4
        else:
            self.offset, self._incomplete, self._is_skipping = self.offset + len(data), 0, True
        lines = data[:end].split(b"\n")[:-1]
        if self._is_skipping and lines:
            lines[0], self._is_skipping = b"", False
        return lines
