"""Let rank 0 of torchrun print its error before a signal ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith.distributed import world_size
from tunesmith.signals import restore_handlers, set_stop_handlers


@contextmanager
def ignore_stop_signals_after_error() -> Iterator[None]:
    """Keep signals ignored if the block raises, so that rank 0 can print the error and exit.

    Where another rank fails, torchrun ends rank 0 with a signal. The run itself obeys it. After an
    error the process only prints the error, so the signals stay ignored.
    """
    if world_size() == 1:
        yield
        return
    handlers = set_stop_handlers(signal.SIG_IGN)
    yield
    restore_handlers(handlers)
