"""Phases: parts of a run that take time, so that reporters can show what is running."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tunesmith.contracts import Progress
from tunesmith.events import Event, PhaseAdvanced, PhaseEnded, PhaseStarted


@contextmanager
def run_phase(
    emit: Callable[[Event], None], phase: str, total: int | None = None, unit: str = "rows"
) -> Iterator[Progress]:
    """Emit the start and the end of a phase; yield a function that reports its progress."""
    started = time.perf_counter()
    emit(PhaseStarted(phase=phase, total=total, unit=unit))
    yield lambda done: emit(PhaseAdvanced(phase=phase, done=done))
    emit(PhaseEnded(phase=phase, seconds=time.perf_counter() - started))
