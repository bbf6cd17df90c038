"""Handle stop signals during a run: finish the step, save a checkpoint, then stop.

Ctrl-C sends SIGINT. Closing a terminal sends SIGHUP, which a run under ``nohup`` ignores as usual.
Schedulers send SIGTERM, SIGUSR1 (Slurm), SIGUSR2 (Grid Engine, LSF) and SIGXCPU (CPU time limit).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from tunesmith.errors import RunStopped

STOP_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
URGENT_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end the process immediately if they arrive again while the run is stopping."""
end_process = os._exit
"""The real ``os._exit``, saved because :mod:`tunesmith.fence` replaces it during plugin calls."""
_last_words: list[str] = []


def set_stop_handlers(handler: Any) -> dict[int, Any]:
    """Set the handler of the stop signals; return the earlier ones for :func:`restore_handlers`.

    A signal that is not urgent keeps its handling if it is ignored or has a handler already.
    Only the main thread can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    handled = (
        n for n in STOP_SIGNALS if n in URGENT_SIGNALS or signal.getsignal(n) == signal.SIG_DFL
    )
    return {number: signal.signal(number, handler) for number in handled}


def restore_handlers(handlers: Mapping[int, Any]) -> None:
    """Restore signal handlers, except handlers that were not set from Python (None)."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def print_if_killed(text: str) -> Iterator[None]:
    """Print a line, such as the command to continue, if a second signal ends the process."""
    _last_words.append(text)
    try:
        yield
    finally:
        _last_words.remove(text)


class StopSignalHandler:
    """Records the first stop signal; a SIGINT or SIGTERM after that ends the process.

    ``raise_if_received`` raises :class:`RunStopped` after a signal, at a point where the run can
    stop safely. The exit codes are conventional: 128 plus the signal number, such as 143.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignalHandler:
        self._previous_handlers = set_stop_handlers(self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        restore_handlers(self._previous_handlers)

    def raise_if_received(self) -> None:
        """Raise :class:`RunStopped` if a stop signal was received."""
        if self.received is not None:
            number = self.received
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            raise RunStopped(f"stopped by {name}", exit_code=128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number not in URGENT_SIGNALS:
                return
            # Files and folders being written have temporary names, which are never read.
            with suppress(OSError):
                os.write(2, b"\n\x1b[?25h" * os.isatty(2))  # show the cursor, which is hidden
                os.write(2, "".join(f"{text}\n" for text in _last_words).encode())
            end_process(128 + number)
        self.received = number
        text = "stopping after this step"
        text += "; press Ctrl-C again to stop now" if number == signal.SIGINT else ""
        # The live display overwrites up to five lines, so leave them empty.
        with suppress(OSError):  # the terminal may be closed
            os.write(2, ("\n" + text + "\n" * (5 if os.isatty(2) else 1)).encode())
