"""Emit events: write each one to the log, pass it to the reporters, and check it with the guards.

Training code calls ``job.emit(event)``, which is an :class:`Emitter`. It is also where a run is
stopped: a guard or a signal makes the call raise.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from tunesmith.contracts import Progress, Reporter
from tunesmith.events import (
    Event,
    Notice,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    StepFinished,
)
from tunesmith.execution.guards import Guard
from tunesmith.execution.report import Report
from tunesmith.offered import Plugin
from tunesmith.plugins import attribute_errors_to, describe_error
from tunesmith.signals import StopSignalHandler
from tunesmith.text import redact_all

if TYPE_CHECKING:
    from tunesmith.plan import Plan
    from tunesmith.storage import EventLog, RunFolder

MUTED_AFTER = 3
"""Number of failures after which a reporter gets no more events."""


@dataclass
class _ReporterState:
    """A reporter, the plugin that it comes from, and the number of its failures so far."""

    plugin: Plugin
    name: str
    reporter: Reporter
    failures: int = 0


class Reporters:
    """The reporters of a run, isolated from it: a reporter that raises never stops training."""

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        self._plan = plan
        self._folder = folder
        self._reporters: list[_ReporterState] = []
        self._open = ExitStack()

    def __enter__(self) -> Reporters:
        for component in self._plan.reporters:
            plugin = component.offered.plugin
            with attribute_errors_to(plugin):
                reporter = component.offer.build(component.config, self._folder)
                self._open.enter_context(reporter)
            self._reporters.append(_ReporterState(plugin, component.offer.name, reporter))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._open.__exit__(kind, error, trace)
        except Exception as failure:  # an error on closing must not replace the run's own error
            warnings.warn(f"a reporter failed to close: {describe_error(failure)}", stacklevel=2)

    def report(self, event: Event) -> list[Notice]:
        """Pass the event to every reporter; return a warning for each reporter that failed."""
        notices = []
        for state in self._reporters:
            if state.failures >= MUTED_AFTER:
                continue
            try:
                state.reporter.report(event)
            except Exception as error:  # any error of a reporter is reported, never raised
                state.failures += 1
                muted = (
                    "; it is muted for the rest of the run" if state.failures >= MUTED_AFTER else ""
                )
                text = f'reporter "{state.name}" failed: {describe_error(error)}{muted}'
                notice = Notice(level="warning", source=state.plugin.full_name, message=text)
                notices.append(notice)
        return notices


@dataclass
class Emitter:
    """The callable behind ``job.emit``: records an event, and raises when the run must end.

    Raises:
        RunStopped: a signal arrived or a limit is reached; only at events that mark progress.
        TrainingError: a guard found that further training is pointless.
    """

    log: EventLog
    reporters: Reporters
    guards: Sequence[Guard]
    interrupts: StopSignalHandler
    report: Report = field(default_factory=Report)

    def __call__(self, event: Event) -> None:
        self._record(event)
        for notice in self.reporters.report(event):
            self._record(notice)
        if isinstance(event, (StepFinished, PhaseStarted, PhaseAdvanced)):
            for guard in self.guards:
                problem = guard.check(event)
                if problem is not None:
                    raise problem
            self.interrupts.raise_if_received()

    @contextmanager
    def phase(self, phase: str, total: int | None = None, unit: str = "rows") -> Iterator[Progress]:
        """Emit the start and the end of a phase; yield a function that reports its progress."""
        started = time.perf_counter()
        self(PhaseStarted(phase=phase, total=total, unit=unit))
        yield lambda done: self(PhaseAdvanced(phase=phase, done=done))
        self(PhaseEnded(phase=phase, seconds=time.perf_counter() - started))

    def _record(self, event: Event) -> None:
        self.report.add_event(event)
        # Progress within a phase is shown live, but would flood the log.
        if not isinstance(event, PhaseAdvanced):
            durable = isinstance(event, RunFinished)
            line = {"time": round(time.time(), 3), **redact_all(event.to_json())}
            self.log.append(line, durable=durable)
