"""The event log of a run: append-only, and a crash can lose its last line at most."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tunesmith.errors import IntegrityError
from tunesmith.events import JSON
from tunesmith.storage import atomic
from tunesmith.storage.atomic import DISK, Disk


class EventLog:
    """Append-only JSON lines: a crash can lose the last line, and no other.

    Each line is one ``write`` to a file opened for appending. A line torn by a crash is cut off
    when the log is next opened (or ended, if only its line end is lost), and a line torn by a full
    disk at once, so that the next line never sticks to it. Safe to share between threads.
    """

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self.path = path
        self._disk = disk
        self._turn = threading.Lock()
        with atomic.explained(path):
            self._fd = disk.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                self._mend()
                atomic.sync_folder(path.parent, disk)
            except BaseException:
                self.close()
                raise

    def append(self, event: Mapping[str, Any], *, durable: bool = False) -> None:
        """Add one line; with ``durable`` it survives a power cut once this returns.

        Without, it survives the death of the process, not that of the machine.

        Raises:
            EnvironmentProblem: the line could not be written; the log ends as it did before.
        """
        line = atomic.encode_json(event).encode() + b"\n"
        with self._turn, atomic.explained(self.path, needed=len(line)):
            self._append(line)
            if durable:
                self._disk.fsync(self._fd)

    def _append(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):  # more than one round only when space runs out
                written += self._disk.write(self._fd, line[written:])
        except BaseException:
            if written:
                self._disk.truncate(self._fd, os.fstat(self._fd).st_size - written)
            raise

    def _mend(self) -> None:
        end = os.fstat(self._fd).st_size
        tail, start = b"", end
        while start > 0 and b"\n" not in tail:
            start = max(0, start - (1 << 16))
            tail = os.pread(self._fd, end - start, start)
        tail = tail.rpartition(b"\n")[2]
        if tail and _parse(tail) is None:
            self._disk.truncate(self._fd, end - len(tail))
        elif tail:
            self._append(b"\n")

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _parse(line: bytes) -> JSON | None:
    try:
        return atomic.decode_json(line)
    except ValueError:
        return None


def read_events(path: Path) -> Iterator[JSON]:
    """The objects in an event log, also while somebody appends to it; none if there is no file.

    A last line without an end is read if it is whole and ignored if it is not.

    Raises:
        IntegrityError: another line is not a JSON object; the message names it.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file, atomic.explained(path):
        for number, line in enumerate(file, start=1):
            event = _parse(line)
            if event is not None:
                yield event
            if not line.endswith(b"\n"):
                return  # what follows by now is the rest of this line
            if event is None:
                raise IntegrityError(f"{path}:{number}: is not a JSON object, the log was damaged")
