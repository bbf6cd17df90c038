"""Emit events: write each to the log, pass it to the reporters, and check it with the guards.

Training code calls ``job.emit(event)``, which is an :class:`Emitter`. This call is also where a run
stops: it raises if a guard or a signal ends the run.
"""

from __future__ import annotations

import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
)
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tunesmith.contracts import Progress, Reporter
from tunesmith.events import (
    Event,
    FindingReported,
    PartEnded,
    PhaseAdvanced,
    PhaseStarted,
    RunFinished,
    StepFinished,
)
from tunesmith.execution.guards import Guard
from tunesmith.execution.report import Report
from tunesmith.fence import (
    attribute_errors_to,
    describe_error,
    fence,
    hook_seconds,
    is_of_user,
    isolate,
    outside_fence,
)
from tunesmith.offers import Plugin
from tunesmith.phases import run_phase
from tunesmith.signals import StopSignalHandler
from tunesmith.text import redact_all

if TYPE_CHECKING:
    from tunesmith.plan import Plan
    from tunesmith.plugins import Plugins
    from tunesmith.storage import EventLog, RunFolder

MAX_REPORTER_FAILURES = 3
"""Number of failures after which a reporter gets no more events."""


@dataclass
class _OpenReporter:
    """A reporter, the plugin that it comes from, and the number of its failures so far."""

    plugin: Plugin
    name: str
    reporter: Reporter
    required: bool = False
    failures: int = 0


class Reporters:
    """The reporters of a run, isolated from it: only a required reporter's failure stops training.

    A reporter gets a copy of each event, and global state that it changes is restored. Reporters
    have their own random state, so they do not change the random numbers of the run.
    """

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        self._plan = plan
        self._folder = folder
        self._reporters: list[_OpenReporter] = []
        self._open = ExitStack()
        self._random_state = random.getstate()
        self._findings: list[FindingReported] = []
        self._reported_changes: set[tuple[str, ...]] = set()
        self.on_close_failure: Callable[[FindingReported], None] = _warn_of_failure
        """A function that receives a finding about each reporter that cannot be closed."""

    def __enter__(self) -> Reporters:
        for stream in (redirect_stdout(sys.stdout), redirect_stderr(sys.stderr)):
            self._open.enter_context(stream)  # a live display may replace the streams until the end
        try:
            # The first one to be opened is the last one to be closed.
            for component in sorted(self._plan.reporters, key=lambda c: not c.offer.required):
                name, plugin = component.offer.name, component.offered.plugin
                config = component.config.model_copy(deep=True)
                with attribute_errors_to(plugin), self._isolated(name, plugin):
                    reporter = component.offer.build(config, replace(self._folder))
                    reporter.__enter__()
                    self._open.push(partial(self._close, name, plugin, reporter))
                required = component.offer.required
                self._reporters.append(_OpenReporter(plugin, name, reporter, required))
        except BaseException as error:  # close the reporters that are already open
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _close(self, name: str, plugin: Plugin, reporter: Reporter, *error: Any) -> None:
        """Close a reporter; its error must not replace the error of the run.

        The failure is reported to the reporters that are still open.
        """
        self._reporters = [state for state in self._reporters if state.reporter is not reporter]
        try:
            with self._isolated(name, plugin, may_read_much=True):
                reporter.__exit__(*error)
        except BaseException as failure:
            if is_of_user(failure):
                raise
            text = f'reporter "{name}" could not be closed: {describe_error(failure)}'
            self.on_close_failure(
                FindingReported(level="warning", source=plugin.full_name, message=text)
            )

    def report(self, event: Event) -> list[FindingReported]:
        """Pass the event to every reporter; return warnings about those that failed.

        Raises:
            TunesmithError: a required reporter failed; it gets no more events.
        """
        fatal: list[tuple[Plugin, BaseException]] = []
        for state in self._reporters:
            if state.failures >= MAX_REPORTER_FAILURES:
                continue
            try:
                with self._isolated(state.name, state.plugin):
                    state.reporter.report(deepcopy(event))
            except BaseException as error:  # report any error
                if is_of_user(error):
                    raise
                if state.required:
                    state.failures = MAX_REPORTER_FAILURES
                    fatal.append((state.plugin, error))
                    continue
                state.failures += 1
                muted = state.failures >= MAX_REPORTER_FAILURES
                ending = "; it is muted for the rest of the run" if muted else ""
                self._warn(state.name, state.plugin, f"failed: {describe_error(error)}{ending}")
        for plugin, failure in fatal:
            with attribute_errors_to(plugin):
                raise failure
        findings, self._findings = self._findings, []
        return findings

    @contextmanager
    def _isolated(
        self, name: str, plugin: Plugin, *, may_read_much: bool = False
    ) -> Iterator[None]:
        """Run the block with the reporters' random state, and restore global state that it changes.

        Built-in reporters are tested not to change anything, so they skip this overhead.
        """
        if plugin.is_builtin:
            yield
            return
        seconds = hook_seconds(has_rows=may_read_much)
        isolated = isolate(plugin, f"reporter {name}", seconds=seconds, is_reporter=True)
        with isolated as changes:
            random.setstate(self._random_state)
            try:
                yield
            finally:
                self._random_state = random.getstate()
        key = (plugin.full_name, name, *changes)
        if changes and key not in self._reported_changes:
            self._reported_changes.add(key)
            self._warn(name, plugin, f"changed {', '.join(changes)}; the change was undone")

    def _warn(self, name: str, plugin: Plugin, text: str) -> None:
        finding = FindingReported(
            level="warning", source=plugin.full_name, message=f'reporter "{name}" {text}'
        )
        self._findings.append(finding)


def _warn_of_failure(finding: FindingReported) -> None:
    warnings.warn(finding.message, stacklevel=2)


def take_findings(plugins: Plugins) -> Iterator[FindingReported]:
    """Yield a finding for each change that hooks made to global state or to plans."""
    for plugin, text in plugins.take_notes():
        yield FindingReported(level="warning", source=plugin.full_name, message=text)


@dataclass
class Emitter:
    """Records an event, and raises an error if the run must end; jobs call it as ``job.emit``.

    Raises:
        RunStopped: a signal arrived or a limit was reached. Raised only at events that report
            progress.
        TrainingError: a guard found that further training cannot succeed.
    """

    log: EventLog
    reporters: Reporters
    guards: Sequence[Guard]
    interrupts: StopSignalHandler
    report: Report = field(default_factory=Report)

    def __call__(self, event: Event) -> None:
        with outside_fence():
            self._emit(event)
        if isinstance(event, (StepFinished, PhaseStarted, PhaseAdvanced)):
            for guard in self.guards:
                problem = guard.check(event)
                if problem is not None:
                    raise problem
            self.interrupts.raise_if_received()

    def _emit(self, event: Event) -> None:
        events = [event]
        for recorded in events:  # the list grows: reporter failures become events for the others
            self._record(recorded)
            events += self.reporters.report(recorded)

    def phase(
        self, phase: str, total: int | None = None, unit: str = "rows"
    ) -> AbstractContextManager[Progress]:
        """Emit the start and the end of a phase; yield a function that reports its progress."""
        return run_phase(self, phase, total, unit)

    @contextmanager
    def part(self, part: str) -> Iterator[None]:
        """Emit the duration of a part of the run, even if the part is stopped."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self(PartEnded(part=part, seconds=time.perf_counter() - started))

    @contextmanager
    def call(self, plugin: Plugin, what: str) -> Iterator[None]:
        """Run a plugin's code in the fence; emit a warning if it changes global state."""
        with fence(plugin, what, may_take_long=True) as changes:
            yield
        if changes:
            text = f"{what} changed {', '.join(changes)}; the change was undone"
            self(FindingReported(level="warning", source=plugin.full_name, message=text))

    def _record(self, event: Event) -> None:
        self.report.add_event(event)
        # Progress within a phase is shown live, but would flood the log.
        if not isinstance(event, PhaseAdvanced):
            durable = isinstance(event, RunFinished)
            line = {"time": round(time.time(), 3), **redact_all(event.to_json())}
            self.log.append(line, durable=durable)
