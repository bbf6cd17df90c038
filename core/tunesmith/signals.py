"""Signals that end a run politely: finish the step, save, say how to go on."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from tunesmith.errors import RunStopped

POLITE = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While open, the first SIGINT or SIGTERM is only noted; a second one ends the process.

    ``check`` raises :class:`RunStopped` once a signal was noted, at a place where nothing is torn.
    The exit codes are the conventional 130 and 143.
    """

    def __init__(self) -> None:
        self.noted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in POLITE}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise if a signal has asked for the end."""
        if self.noted is not None:
            name = signal.Signals(self.noted).name
            raise RunStopped(f"stopped by {name}", exit_code=128 + self.noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is not None:
            # Whatever is being written is still in staging, and staging is never read.
            os._exit(128 + number)
        self.noted = number
        # A moving display draws over the last two lines: they are left empty for it.
        os.write(2, b"\nstopping after this step; once more to leave at once\n\n")
