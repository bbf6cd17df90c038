"""The reporter that mirrors a run while it trains: it pushes in a thread of its own."""

from __future__ import annotations

import threading
from pathlib import Path

from tunesmith.errors import EnvironmentProblem
from tunesmith.events import CheckpointSaved, Event, RunStarted, TrainingFinished
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options
from tunesmith.storage import RunFolder
from tunesmith.text import redact
from tunesmith_remote.snapshot import find_mirror

MOST_FINDINGS = 2
"""Failures that are reported while the run trains: after a third, a reporter gets no events."""


class NoOptions(Options):
    """No options: the place is that of the table ``[remote]``."""


class RemoteReporter:
    """Pushes after each checkpoint, when training has finished, and when the run ends.

    Pushes never wait for one another: checkpoints that come during a push go with the next one.
    A push that fails becomes a finding at the next event, and is repeated with the next checkpoint.
    One that fails at the end becomes a warning. Neither stops or fails the run. A checkpoint that
    is skipped because it is damaged is reported once, in the same way.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._url = ""
        self._due = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None
        self._damaged: dict[str, str] = {}
        self._reported: set[str] = set()
        self._is_failing = False
        self._findings = 0

    def __enter__(self) -> RemoteReporter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._due.set()
        self._thread.join()
        problems: list[str] = []
        try:
            self._push()
        except Exception as problem:
            command = f"tunesmith remote push {self._folder.path} {self._url}"
            problems.append(
                f"the end of the run is not in the bucket: {describe(problem)}; repeat it with "
                f"`{command}`"
            )
        problems += self._take_damaged()
        if problems:
            raise EnvironmentProblem("; ".join(problems))

    def report(self, event: Event) -> None:
        """Start to push, or push soon.

        Raises:
            EnvironmentProblem: the last push has failed, or a damaged checkpoint was skipped, and
                that was not reported yet.
        """
        if isinstance(event, RunStarted) and self._thread is None:
            base = event.plan.get("remote", {}).get("url")
            if base:
                self._url = choose_url(self._folder.path, base, self._folder.id)
                self._thread = threading.Thread(
                    target=self._push_when_due, name="tunesmith-remote", daemon=True
                )
                self._thread.start()
        if isinstance(event, (CheckpointSaved, TrainingFinished)):
            self._due.set()
        if self._findings == MOST_FINDINGS:
            return
        problem, self._problem = self._problem, None
        problems = [*([describe(problem)] if problem else []), *self._take_damaged()]
        if problems:
            self._findings += 1
            text = "; ".join(problems)
            raise EnvironmentProblem(f"{text}; training goes on, and the next checkpoint is pushed")

    def _take_damaged(self) -> list[str]:
        """Return the damaged checkpoints that were skipped, each once."""
        damaged = {n: why for n, why in self._damaged.items() if n not in self._reported}
        self._reported |= damaged.keys()
        return [redact(f"{name} is damaged, not pushed: {why}") for name, why in damaged.items()]

    def _push_when_due(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._ended.is_set():
                return
            try:
                self._push()
                self._is_failing = False
            except Exception as problem:
                if not self._is_failing:
                    self._problem = problem
                self._is_failing = True

    def _push(self) -> None:
        # Imported here, because libraries of object stores are large.
        from tunesmith_remote.bucket import Bucket
        from tunesmith_remote.push import push_run

        damaged = push_run(self._folder.path, Bucket(self._url)).damaged
        self._damaged = {**self._damaged, **damaged}  # a new one: another thread reads it


def choose_url(folder: Path, base: str, name: str) -> str:
    """Return the URL for a run below ``base``: that of its mirror, or one with its name."""
    mirror = find_mirror(folder)
    if mirror and mirror.url.rpartition("/")[0] == base:
        return mirror.url
    return f"{base}/{name}"


def describe(problem: Exception) -> str:
    """Return an error with its hint, without secrets."""
    hint = getattr(problem, "hint", None)
    return redact(f"{problem}; {hint}" if hint else str(problem))


REMOTE_REPORTER = ReporterOffer(
    name="remote",
    summary="the run itself, to object storage, if [remote] url is set",
    config=NoOptions,
    build=lambda options, folder: RemoteReporter(folder),
    always=True,
)
