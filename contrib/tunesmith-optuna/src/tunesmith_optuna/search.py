"""Run a search: propose trials, execute them, and record their results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from optuna.trial import Trial

from tunesmith.errors import ConfigError, TrainingError
from tunesmith.signals import StopSignalHandler
from tunesmith.text import one_line
from tunesmith_evidence.number_text import format_number
from tunesmith_optuna.findings import Result, Row
from tunesmith_optuna.launchers import Launcher
from tunesmith_optuna.options import TuneOptions
from tunesmith_optuna.space import Value
from tunesmith_optuna.study import Study
from tunesmith_optuna.trial_log import TrialLog, ValidationPoint
from tunesmith_optuna.trial_run import TrialRuns

FIRST_FAILURES = 3
"""Stop the search if this many trials have ended and every trial failed."""
STOP_SECONDS = 60.0
"""Seconds that trials have to save a checkpoint when the search stops."""


class ProgressView(Protocol):
    """Shows the progress of a search."""

    def begin(self, number: int, options: Mapping[str, object], resumed: bool) -> None:
        """Show that a trial starts or continues."""
        ...

    def update(self, running: Sequence[TrialLog]) -> None:
        """Show the progress of the running trials."""
        ...

    def end(self, row: Row) -> None:
        """Show the outcome of a trial."""
        ...


@dataclass
class RunningTrial:
    """A running trial, with the events that its run has written so far."""

    trial: Trial
    log: TrialLog
    pruned: str = ""
    """The reason why the trial was stopped early, or "" if it was not."""
    compared: int = 0
    """Number of its evaluations that have been compared with other trials."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The seconds since the trial started, or since this process started to follow it."""
        return self.log.seconds or time.monotonic() - self.began


@dataclass
class Search:
    """Runs the trials of a study until there are enough."""

    study: Study
    runs: TrialRuns
    launcher: Launcher
    options: TuneOptions
    view: ProgressView
    first: Mapping[str, Value] | None = None
    """Parameters of the first trial, which are the run file's own options."""
    running: dict[int, RunningTrial] = field(default_factory=dict)
    _unfinished: deque[Trial] = field(default_factory=deque)
    """Trials of an interrupted search that have not been restarted yet."""
    _is_exhausted: bool = False

    def run(self) -> None:
        """Run trials until the study has enough, or the time limit has passed.

        Raises:
            TrainingError: all of the first trials failed.
            RunStopped: a signal stopped the search, which can be continued.
        """
        began = time.monotonic()
        with StopSignalHandler() as interrupts:
            try:
                self._unfinished.extend(self.study.unfinished())
                while True:
                    while self._may_begin(time.monotonic() - began):
                        self._begin()
                    if not self.running:
                        return
                    interrupts.raise_if_received()
                    time.sleep(self.launcher.poll_seconds)
                    self._look()
            except BaseException:
                self._leave()
                raise

    def _may_begin(self, seconds: float) -> bool:
        if len(self.running) >= self.options.parallel:
            return False
        if self._unfinished:  # already counted, and started within the time limit
            return True
        limit = self.options.minutes
        return (
            not self._is_exhausted
            and len(self.study.rows()) < self.options.trials
            and (limit is None or seconds < 60 * limit)
        )

    def _begin(self) -> None:
        if self._unfinished:
            self._start(self._unfinished.popleft(), resumed=True)
            return
        trial = self.study.propose(self.first)
        if trial is None:
            self._is_exhausted = True
        else:
            self._start(trial, resumed=False)

    def _start(self, trial: Trial, *, resumed: bool) -> None:
        """Start the run of a trial. If its options conflict, record the trial as failed."""
        options = self.study.space.decode(trial.params)
        self.view.begin(trial.number, options, resumed)
        try:
            folder = self.runs.prepare(trial.number, options)
        except ConfigError as error:
            self.study.fail(trial, 0.0, error.message)
            self._show_end(trial.number)
            return
        running = RunningTrial(trial, TrialLog(folder))
        running.log.read()
        if running.log.status in ("ok", "failed"):  # The run ended while no search was running.
            self._compare(running)
            self._finish(running)
            return
        self.launcher.start(folder)
        self.running[trial.number] = running

    def _look(self) -> None:
        """Update every running trial, in the order of their numbers."""
        for number, running in sorted(self.running.items()):
            # Checked before reading events, so that all events of a run that just ended are read.
            is_active = self.launcher.is_active(running.log.folder)
            running.log.read()
            self._compare(running)
            is_over = self.launcher.leaves_runs and running.log.status in ("ok", "failed")
            if is_over or not is_active:
                del self.running[number]
                self._finish(running)
        self.view.update([running.log for _, running in sorted(self.running.items())])

    def _compare(self, running: RunningTrial) -> None:
        """Compare a trial's new validation losses with other trials, and stop it if it is worse."""
        evaluations = [*running.log.evaluations.values()]
        for evaluation in evaluations[running.compared :]:
            running.compared += 1
            is_last = evaluation.step >= evaluation.steps
            if running.pruned or is_last or not self.study.should_prune(running.trial, evaluation):
                continue
            running.pruned = describe_pruning(evaluation, self.options.pruner)
            self.launcher.stop(running.log.folder)

    def _finish(self, running: RunningTrial) -> None:
        """Record the outcome of a trial."""
        trial, log = running.trial, running.log
        if running.pruned:
            # Count the trial as pruned even if its run ended before the signal, because proposals
            # must not depend on timing.
            self.study.prune(trial, running.seconds, running.pruned)
        elif log.status == "ok" and (result := self._find_result(log)):
            self.study.finish(trial, result, running.seconds)
        else:
            self.study.fail(trial, running.seconds, self._find_reason(log))
        self._show_end(trial.number)

    def _show_end(self, number: int) -> None:
        rows = self.study.rows()
        self.view.end(next(row for row in rows if row.number == number))
        ended = [row for row in rows if row.state != "running"]
        if len(ended) >= FIRST_FAILURES and all(row.state == "failed" for row in ended):
            raise TrainingError(
                f"the first {len(ended)} trials failed: {one_line(ended[-1].reason, 400)}",
                hint="make sure that the run file works without a search: tunesmith run",
            )

    def _find_result(self, log: TrialLog) -> Result | None:
        objective = self.runs.objective
        event = log.measured.get((objective.id, objective.metric.name))
        if event is None:
            return None
        return Result(event["value"], event["low"], event["high"], event["n"])

    def _find_reason(self, log: TrialLog) -> str:
        if log.status == "ok":
            objective = self.runs.objective
            return f"the evaluator {objective.id} did not measure {objective.metric.name}"
        reason = str(log.finished["error"]) if log.finished else ""
        return reason or self.launcher.describe_end(log.folder)

    def _leave(self) -> None:
        """Stop local trials, so that the search can continue them later. Cluster jobs continue."""
        if self.launcher.leaves_runs:
            return
        for running in self.running.values():
            self.launcher.stop(running.log.folder)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(
            self.launcher.is_active(running.log.folder) for running in self.running.values()
        ):
            time.sleep(self.launcher.poll_seconds)


def describe_pruning(evaluation: ValidationPoint, pruner: str) -> str:
    """Return the reason why a trial was stopped early."""
    than = "is above the median of other trials" if pruner == "median" else "is not among the best"
    return (
        f"stopped at step {evaluation.step} of {evaluation.steps}: "
        f"its validation loss, {format_number(evaluation.loss)}, {than}"
    )
