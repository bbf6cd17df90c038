"""SIGINT and SIGTERM during a run: finish the step, save a checkpoint, then stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from tunesmith.errors import RunStopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignalHandler:
    """Records the first SIGINT or SIGTERM while open; a second one ends the process.

    ``raise_if_received`` raises :class:`RunStopped` after a signal, at a point where the run can
    stop safely. The exit codes are the conventional 130 and 143.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignalHandler:
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                number: signal.signal(number, self._handle) for number in STOP_SIGNALS
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
            # A file or folder that is being written has a temporary name, which is never read.
            os._exit(128 + number)
        self.received = number
        # The live display overwrites the last two lines, so they are left empty.
        os.write(2, b"\nstopping after this step; press again to stop at once\n\n")
