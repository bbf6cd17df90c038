"""How a run speaks: every event goes to the log, to the reporters, and past the guards."""

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
    Noticed,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    Stepped,
)
from tunesmith.execution.guards import Guard
from tunesmith.execution.report import Report
from tunesmith.offered import Plugin
from tunesmith.plugins import blame, describe
from tunesmith.signals import Interrupts

if TYPE_CHECKING:
    from tunesmith.plan import Plan
    from tunesmith.storage import EventLog, RunFolder

MUTED_AFTER = 3
"""Failures after which a reporter is no longer asked."""


@dataclass
class _Listener:
    """A reporter, the plugin it is from, and how often it has failed."""

    plugin: Plugin
    name: str
    reporter: Reporter
    failures: int = 0


class Reporters:
    """The run's reporters, each isolated: one that raises never stops training."""

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        self._plan = plan
        self._folder = folder
        self._listeners: list[_Listener] = []
        self._open = ExitStack()

    def __enter__(self) -> Reporters:
        for component in self._plan.reporters:
            plugin = component.offered.plugin
            with blame(plugin):
                reporter = component.offer.build(component.config, self._folder)
                self._open.enter_context(reporter)
            self._listeners.append(_Listener(plugin, component.offer.name, reporter))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._open.__exit__(kind, error, trace)
        except Exception as failure:  # a reporter's last words must not hide how the run ended
            warnings.warn(f"a reporter failed to close: {describe(failure)}", stacklevel=2)

    def report(self, event: Event) -> list[Noticed]:
        """Show the event everywhere; what comes back are the complaints about reporters."""
        notices = []
        for listener in self._listeners:
            if listener.failures >= MUTED_AFTER:
                continue
            try:
                listener.reporter.report(event)
            except Exception as error:  # isolation is the point
                listener.failures += 1
                muted = ", and is muted from now on" if listener.failures >= MUTED_AFTER else ""
                what = f'reporter "{listener.name}" failed: {describe(error)}{muted}'
                notice = Noticed(level="warning", source=listener.plugin.full_name, message=what)
                notices.append(notice)
        return notices


@dataclass
class Telling:
    """``job.emit``: tells an event to everyone, and raises when the run shall end.

    Raises:
        RunStopped: a signal came or a limit is reached; only at events that mark progress.
        TrainingError: a guard found that going on makes no sense.
    """

    log: EventLog
    reporters: Reporters
    guards: Sequence[Guard]
    interrupts: Interrupts
    report: Report = field(default_factory=Report)

    def __call__(self, event: Event) -> None:
        self._record(event)
        for notice in self.reporters.report(event):
            self._record(notice)
        if isinstance(event, (Stepped, PhaseStarted, PhaseAdvanced)):
            for guard in self.guards:
                problem = guard.judge(event)
                if problem is not None:
                    raise problem
            self.interrupts.check()

    @contextmanager
    def phase(self, phase: str, total: int | None = None, unit: str = "rows") -> Iterator[Progress]:
        """Announce a stretch of work; the block gets a function to say how far it is."""
        started = time.perf_counter()
        self(PhaseStarted(phase=phase, total=total, unit=unit))
        yield lambda done: self(PhaseAdvanced(phase=phase, done=done))
        self(PhaseEnded(phase=phase, seconds=time.perf_counter() - started))

    def _record(self, event: Event) -> None:
        self.report.take(event)
        if not isinstance(event, PhaseAdvanced):
            durable = isinstance(event, RunFinished)
            self.log.append({"time": round(time.time(), 3), **event.to_json()}, durable=durable)
