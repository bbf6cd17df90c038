"""Send a run to an experiment tracker, in a separate thread, so that the tracker cannot delay it.

A distribution for one tracker implements :class:`Tracker`; :class:`TrackerReporter` is its
reporter. It turns events into values, intervals and tags with the same names in every tracker.
"""

from __future__ import annotations

import json
import math
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from pydantic import Field

from tunesmith.errors import EnvironmentProblem
from tunesmith.events import JSON, Event, Monitored, RunFinished, RunStarted, StepFinished
from tunesmith.execution.report import Report
from tunesmith.options import Options
from tunesmith.storage import RunFolder, read_known_events
from tunesmith.text import redact, redact_all
from tunesmith_evidence.report.card import render_card_markdown, render_card_svg
from tunesmith_evidence.report.view import ReportView

__all__ = ["TrackedResults", "TrackedRun", "Tracker", "TrackerOptions", "TrackerReporter"]

MAX_FAILURES = 3
"""Number of failed calls after which the tracker gets no more calls."""
MAX_WAITING = 10_000
"""Maximum number of calls that wait for a slow tracker; further calls are dropped and counted."""
MAX_NAME, MAX_TEXT = 200, 500
"""Maximum characters of a name, and of the text of an option or tag. MLflow allows 250 and 500."""
_PAIRED = ("difference", "low", "high", "n", "p_value")


class TrackerOptions(Options):
    """Options of every tracker."""

    wait: float = Field(
        10,
        ge=0,
        le=3600,
        description="Seconds to wait at the end for a tracker that has not finished. A run waits "
        "at most a minute; `tunesmith report RUN --to REPORTER` has no such limit.",
    )


@dataclass(frozen=True)
class TrackedRun:
    """The facts about a run that a tracker gets when the run starts."""

    id: str
    """The name of the run folder and a checksum of the time when the run started first."""
    name: str
    folder: Path
    options: Mapping[str, str]
    """The run-file options by dotted key, without secrets."""
    versions: Mapping[str, str]


@dataclass(frozen=True)
class TrackedResults:
    """The results of a run that has ended."""

    status: str
    """ok, failed or stopped."""
    values: Mapping[str, float]
    """Scores with their intervals, and paired differences from the baselines."""
    tags: Mapping[str, str]
    """``status``, and the ``verdict`` with its ``sentence`` if there is one."""
    markdown: str
    """The card of the run: its results on one page, without data rows."""
    svg: str
    """The card as SVG, with its chart."""
    artifact: Path | None
    """The folder of the trained model; None if there is none."""


class Tracker(Protocol):
    """One run in an experiment tracker. All calls come from one thread, and may raise or hang."""

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        """Create the run or continue it; return the last step of each value recorded so far."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a training step."""

    def finish(self, results: TrackedResults) -> None:
        """Record the results."""

    def close(self) -> None:
        """Release everything; called once, also after a failure."""


class TrackerReporter:
    """Reports a run to a tracker. A tracker that fails or hangs never delays the run's events.

    A failed call becomes a warning at the next event. At the end, the run waits for the tracker,
    but at most ``wait`` seconds. A resumed or replayed run continues the same run of the tracker:
    steps that are already recorded are omitted.
    """

    def __init__(self, tracker: Tracker, options: TrackerOptions, folder: RunFolder) -> None:
        self._tracker = tracker
        self._wait = options.wait
        self._folder = folder
        self._report: Report | None = None
        self._calls = SimpleQueue[Callable[[], object] | None]()
        self._problems = SimpleQueue[str]()
        self._dropped = 0
        self._has_started = False
        self._last_steps: dict[str, int] = {}
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)

    def __enter__(self) -> TrackerReporter:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._calls.put(None)
        self._thread.join(self._wait)
        problems = list(self._take_problems())
        if self._thread.is_alive():
            problems.append(f"the tracker does not respond; gave up after {self._wait:g} s")
        if self._dropped:
            problems.append(f"the tracker was too slow, so {self._dropped:,} records are missing")
        if problems:
            again = "to send the run again: `tunesmith report RUN --to REPORTER`"
            raise EnvironmentProblem("; ".join([*problems, again]))

    def report(self, event: Event) -> None:
        """Pass the event on to the thread.

        Raises:
            EnvironmentProblem: an earlier call of the tracker failed, which was not reported yet.
        """
        if isinstance(event, RunStarted) and self._report is None:
            self._report = Report()
            for earlier in read_known_events(self._folder.events) if event.resumed else ():
                self._report.add_event(earlier)
            first = self._report.started or event
            self._calls.put(partial(self._begin, describe_run(event, self._folder, first.started)))
        if self._report is None:
            return
        self._report.add_event(event)
        if isinstance(event, (StepFinished, Monitored)):
            self.call(partial(self._log, list_values(event), event.step))
        if isinstance(event, RunFinished):  # never dropped
            self._calls.put(partial(self._finish, describe_results(self._report, self._folder)))
        for problem in self._take_problems():
            raise EnvironmentProblem(problem)

    def call(self, call: Callable[[], object]) -> None:
        """Queue a call for the tracker's thread, for events that ``report`` does not pass on."""
        if self._calls.qsize() < MAX_WAITING:
            self._calls.put(call)
        else:
            self._dropped += 1

    def _take_problems(self) -> Iterator[str]:
        while not self._problems.empty():
            yield self._problems.get()

    # ------------------------------------------------------------------ in the thread

    def _work(self) -> None:
        failures = 0
        while (call := self._calls.get()) is not None:
            if failures < MAX_FAILURES and not self._succeeds(call):
                failures = failures + 1 if self._has_started else MAX_FAILURES
        self._succeeds(self._tracker.close)

    def _succeeds(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except BaseException as error:  # a tracker may call sys.exit
            self._problems.put(redact(f"{type(error).__name__}: {error}"))
            return False
        return True

    def _begin(self, run: TrackedRun) -> None:
        self._last_steps = dict(self._tracker.start(run))
        self._has_started = True

    def _log(self, values: Mapping[str, float], step: int) -> None:
        known = self._last_steps
        new = {name: value for name, value in values.items() if step > known.get(name, -1)}
        if new:
            self._tracker.log(new, step)
            self._last_steps.update(dict.fromkeys(new, step))

    def _finish(self, results: TrackedResults) -> None:
        """Record the results that an earlier process of the run has not recorded."""
        new = {n: value for n, value in results.values.items() if n not in self._last_steps}
        self._tracker.finish(replace(results, values=new))
        self._last_steps.update(dict.fromkeys(new, 0))


def describe_run(event: RunStarted, folder: RunFolder, started: str) -> TrackedRun:
    """Return the start of a run as a tracker gets it, without secrets.

    A later run in a folder of the same name is another run.
    """
    options = {plain_name(key): cut(value) for key, value in flatten(redact_all(event.plan))}
    id_ = f"{plain_name(folder.id)}-{zlib.crc32(started.encode()):08x}"
    return TrackedRun(id_, cut(event.name or folder.id), folder.path, options, event.versions)


def list_values(event: StepFinished | Monitored) -> dict[str, float]:
    """Return the finite values of a training step, by name."""
    if isinstance(event, Monitored):
        part, values = "validation", event.metrics
    else:
        part, speed = "train", event.tokens / event.seconds if event.seconds else math.nan
        kept = ("loss", "learning_rate", "gradient_norm", "epoch", "memory_bytes")
        values = {**{name: float(vars(event)[name]) for name in kept}, "tokens_per_second": speed}
        values |= event.metrics
    return finite({name_value(event.stage, part, name): value for name, value in values.items()})


def describe_results(report: Report, folder: RunFolder) -> TrackedResults:
    """Return the results of a run as a tracker gets them, without secrets."""
    verdict, view = report.verdict, ReportView(report, folder.path)
    texts = {"status": report.status, "verdict": verdict.get("word")}
    texts["sentence"] = verdict.get("sentence")
    trained = [event.artifact for event in report.training_finished.values()]
    artifact = folder.path / trained[-1] if trained else None
    return TrackedResults(
        report.status,
        finite({**list_scores(report), **list_differences(report)}),
        {name: cut(redact(str(text))) for name, text in texts.items() if text},
        redact(render_card_markdown(view)),
        redact(render_card_svg(view)),
        artifact if artifact and artifact.is_dir() else None,
    )


def list_scores(report: Report) -> dict[str, float]:
    """Return each score on test rows, with its interval, as ``test/METRIC/MODEL/value``."""
    return {
        name_value("test", report.metric_label(m.evaluator, m.metric), m.model, part): vars(m)[part]
        for m in report.measured.values()
        for part in ("value", "low", "high", "n")
    }


def list_differences(report: Report) -> dict[str, float]:
    """Return the paired differences with their intervals, p-values and numbers of rows.

    The names have the form ``paired/METRIC/tuned-minus-BASELINE/difference``.
    """
    verdict: JSON = report.verdict
    label = report.metric_label(str(verdict.get("evaluator", "")), str(verdict.get("metric", "")))
    return {
        name_value("paired", label, f"tuned-minus-{baseline}", part): found[part]
        for baseline, found in verdict.get("comparisons", {}).items()
        for part in _PAIRED
        if isinstance(found.get(part), (int, float))
    }


def name_value(*parts: str) -> str:
    """Return the parts as one name that every tracker accepts."""
    return "/".join(plain_name(part, MAX_NAME // 4) for part in parts if part)


def plain_name(text: str, most: int = MAX_NAME) -> str:
    """Return a name of letters, digits, and some marks, without secrets."""
    return re.sub(r"[^\w. -]+", "_", redact(text))[:most]


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return the finite values, because some trackers cannot store NaN or infinity."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def flatten(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of nested tables as text, by dotted key; lists are JSON."""
    for key, value in tables.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif value is not None:
            yield name, value if isinstance(value, str) else json.dumps(value)


def cut(text: str) -> str:
    """Return the text, cut to the length that trackers accept."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
