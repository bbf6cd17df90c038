"""Append events to a run's log and read them back; a crash loses at most the last line."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import IntegrityError
from tunesmith.events import JSON, Event, from_json
from tunesmith.storage import atomic
from tunesmith.storage.atomic import DISK, Disk
from tunesmith.storage.manifest import is_inside


class EventLog:
    """An append-only file of JSON lines; a crash loses at most the last line.

    Each line is one ``write`` to a file opened for appending. If a crash leaves an incomplete line,
    the log removes it, or adds a missing line end, when it is opened again. If a full disk leaves
    an incomplete line, the log removes it immediately, so that the next line starts on its own.
    Several threads may use one log.
    """

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self.path = path
        self._disk = disk
        self._lock = threading.Lock()
        with atomic.explain_os_errors(path):
            self._fd = disk.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)
            try:
                self._recover_tail()
                atomic.sync_folder(path.parent, disk)
            except BaseException:
                self.close()
                raise

    def append(self, event: Mapping[str, Any], *, durable: bool = False) -> None:
        """Append one event as a line. With ``durable``, it survives a power cut once this returns.

        Without ``durable``, it survives the end of the process, but not a power cut.

        Raises:
            EnvironmentProblem: the line could not be written; the log is unchanged.
        """
        line = atomic.encode_json(event).encode() + b"\n"
        with self._lock, atomic.explain_os_errors(self.path, needed=len(line)):
            self._append(line)
            if durable:
                self._disk.fsync(self._fd)

    def _append(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):  # one call, unless the disk is nearly full
                written += self._disk.write(self._fd, line[written:])
        except BaseException:
            if written:
                self._disk.truncate(self._fd, os.fstat(self._fd).st_size - written)
            raise

    def _recover_tail(self) -> None:
        """Remove an incomplete last line, or add its missing line end."""
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
        """Close the file; closing it twice is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _parse(line: bytes) -> JSON | None:
    try:
        return atomic.decode_json(line)
    except ValueError:
        return None


def read_events(path: Path) -> Iterator[JSON]:
    """Yield the JSON objects of an event log, to which a run may still append.

    A missing log has no objects. A last line without a line end is read if it is complete JSON, and
    ignored otherwise.

    Raises:
        IntegrityError: any other line is not a JSON object, or a line names a file outside the
            run folder. The message contains the line number.
    """
    return (event for _, event in _number_events(path, ()))


# A line of the log, and the part that is decoded:
#
#     {"time": 1764457920.113, "event": "step-finished", "step": 40, "loss": 0.61, ...}\n
#                              ^^^^^^^^^^^^^^^^^^^^^^^^ the kind; decoding stops here if skipped
#
# Most lines of a log are steps, and decoding them takes most of the time. The kind is therefore
# compared as bytes. It is the first key after the time, so it is within the first 80 bytes. Text
# inside an event cannot imitate it, because JSON escapes quotation marks in strings.
#
# A run may append while the log is read, and a crash may cut its last line:
#
#     line                   ends with \n    last, without \n
#     a JSON object          event           event; then stop: the file may have grown meanwhile
#     anything else          IntegrityError  ignored; then stop: it may still be being written
def _number_events(path: Path, skipped: Collection[str]) -> Iterator[tuple[int, JSON]]:
    marks = tuple(f'"event": "{kind}"'.encode() for kind in skipped)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file, atomic.explain_os_errors(path):
        for number, line in enumerate(file, start=1):
            if line.startswith(marks, line.find(b'"event"', 0, 80)) and line.endswith(b"\n"):
                continue  # skipped without decoding
            event = _parse(line)
            if event is not None:
                for name in (event[key] for key in ("artifact", "records") if key in event):
                    if not (isinstance(name, str) and is_inside(name)):
                        problem = f"the event refers to a file outside the run folder: {name!r:.80}"
                        raise IntegrityError(f"{path}:{number}: {problem}")
                yield number, event
            if not line.endswith(b"\n"):
                return  # a run may still be writing this line
            if event is None:
                what = "the line is not a JSON object; the log is damaged"
                raise IntegrityError(f"{path}:{number}: {what}")


def read_known_events(path: Path, *, skipped: Collection[str] = ()) -> Iterator[Event]:
    """Yield the events of a log as :func:`read_events` does, without events of unknown kinds.

    Lines of the kinds in ``skipped`` are not decoded, which saves time: most lines are steps.

    Raises:
        IntegrityError: a line is not an event, or a field of it is missing or wrong.
    """
    for number, line in _number_events(path, skipped):
        try:
            event = from_json(line)
        except ValueError as error:
            raise IntegrityError(
                f"{path}:{number}: {error}; the log is damaged",
                hint="restore the file; without a copy, remove this line to lose only this event",
            ) from None
        if event is not None:
            yield event
