"""Let rank 0 of torchrun print its error before a signal kills it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunesmith.distributed import world_size
from tunesmith.signals import URGENT_SIGNALS, restore_handlers, set_stop_handlers


@contextmanager
def ignore_stop_signals_after_error() -> Iterator[None]:
    """Ignore stop signals after an error in the block, so that rank 0 can print it and exit.

    When another rank fails, torchrun stops rank 0 with a signal, which the run normally handles.
    After an error, the process only has to print the error, so it ignores further signals.
    """
    if world_size() == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    # Ignore torchrun's signals from the start, so that none arrives between the end of the run and
    # the error message. The run installs its own handlers while it is active.
    handlers: dict[int, Any] = {
        number: signal.signal(number, signal.SIG_IGN) for number in URGENT_SIGNALS
    }
    try:
        yield
    except BaseException:
        set_stop_handlers(signal.SIG_IGN)
        raise
    restore_handlers(handlers)
