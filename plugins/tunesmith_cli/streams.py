"""Guard stdout and stderr: drop output that cannot be written instead of stopping the command.

The reader of a pipe may go away (``| head``), the disk may be full, the terminal may be closed, or
a descriptor may be missing from the start. The command continues in all these cases. At the end,
:mod:`tunesmith_cli.exit_codes` decides whether the lost output changes the exit code.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class ErrorTolerantFile(io.FileIO):
    """The raw file of a stream, which drops all output after its first write error."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write data, or drop it after an error. Wait if the file is non-blocking and full."""
        while self.failure is None:
            try:
                written: int | None = super().write(data)
            except OSError as error:
                self.failure = error
                break
            if written is not None:
                return written
            select.select([], [self], [])
        return memoryview(data).nbytes


def guard_streams() -> None:
    """Replace stdout and stderr of this process with streams over an :class:`ErrorTolerantFile`.

    If one of the descriptors 0 to 2 is closed, open it on the null device. Otherwise the next
    opened file would get its number, and an event log could receive output meant for stderr.
    """
    missing = {fd for fd in range(3) if not _is_open(fd)}
    for _ in missing:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
    if 0 in missing:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = _guard(sys.stdout, 1, is_missing=1 in missing)
    sys.stderr = _guard(sys.stderr, 2, is_missing=2 in missing)


def find_stream_error(stream: TextIO) -> OSError | None:
    """Return the error that made a guarded stream drop text, or None."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    stream.flush()
    raw = stream.buffer.raw if isinstance(stream.buffer, io.BufferedWriter) else None
    return raw.failure if isinstance(raw, ErrorTolerantFile) else None


def _guard(stream: TextIO | None, fd: int, *, is_missing: bool) -> TextIO:
    file = ErrorTolerantFile(fd, "wb", closefd=False)
    if is_missing:
        file.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))
    like = stream if isinstance(stream, io.TextIOWrapper) else None
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=like.encoding if like else "utf-8",
        errors=like.errors if like else "backslashreplace",
        line_buffering=like.line_buffering if like else fd == 2,
        write_through=like.write_through if like else False,
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
