"""Stop signals during a run: finish the step, save a checkpoint, then stop.

SIGINT is Ctrl-C, SIGTERM and SIGUSR1 come from schedulers such as Slurm, and SIGHUP from a terminal
that is closed. A run below ``nohup`` ignores SIGHUP, as usual.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from tunesmith.errors import RunStopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
URGENT_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end the process at once if the run is to stop already.

A closed terminal may send SIGHUP more than once, so the others do not.
"""


def handled_signals() -> list[signal.Signals]:
    """Return the stop signals that a run handles from now on.

    SIGHUP and SIGUSR1 are left alone if they are ignored, or if the program handles them itself.
    """
    return [
        number
        for number in STOP_SIGNALS
        if number in URGENT_SIGNALS or signal.getsignal(number) == signal.SIG_DFL
    ]


class StopSignalHandler:
    """Records the first stop signal while open; then SIGINT or SIGTERM ends the process.

    ``raise_if_received`` raises :class:`RunStopped` after a signal, at a point where the run can
    stop safely. The exit codes are the conventional ones, 128 and the number: 130 for SIGINT, 143
    for SIGTERM, 129 for SIGHUP, and 138 for SIGUSR1 on Linux.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignalHandler:
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                number: signal.signal(number, self._handle) for number in handled_signals()
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def raise_if_received(self) -> None:
        """Raise :class:`RunStopped` if a signal was received."""
        if self.received is not None:
            name = signal.Signals(self.received).name
            raise RunStopped(f"stopped by {name}", exit_code=128 + self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number not in URGENT_SIGNALS:
                return
            # A file or folder that is being written has a temporary name, which is never read.
            os._exit(128 + number)
        self.received = number
        text = "stopping after this step"
        text += "; press again to stop at once" if number == signal.SIGINT else ""
        # The live display overwrites the last two lines, so they are left empty.
        with suppress(OSError):  # the terminal may be closed
            os.write(2, f"\n{text}\n\n".encode())
