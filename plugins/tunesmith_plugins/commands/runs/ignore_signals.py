"""Let rank 0 of torchrun print its error before a signal ends it."""

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
    """Keep signals ignored if the block raises, so that rank 0 can print the error and exit.

    Where another rank fails, torchrun ends rank 0 with a signal. The run itself obeys it. After an
    error the process only prints the error, so the signals stay ignored.
    """
    if world_size() == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    # Those with which torchrun ends rank 0 are ignored from the start, so that none comes between
    # the end of the run and the error. The run would not obey another one that is ignored.
    handlers: dict[int, Any] = {
        number: signal.signal(number, signal.SIG_IGN) for number in URGENT_SIGNALS
    }
    try:
        yield
    except BaseException:
        set_stop_handlers(signal.SIG_IGN)
        raise
    restore_handlers(handlers)
