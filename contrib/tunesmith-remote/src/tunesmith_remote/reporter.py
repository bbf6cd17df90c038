"""Mirror a run while it trains, with a reporter that pushes in its own thread."""

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

MAX_FINDINGS = 2
"""Failures to report while the run trains; after three, a reporter gets no more events."""


class NoOptions(Options):
    """The reporter has no options, because the URL is in the ``[remote]`` table."""


class RemoteReporter:
    """Pushes after each checkpoint, after training, and at the end of the run.

    Pushes are not queued, so the next push uploads checkpoints that were saved during a push. A
    failed push becomes a finding at the next event, and the next checkpoint triggers a new push. At
    the end of the run, a failed push becomes a warning. It never stops or fails the run. A
    checkpoint that is skipped because it is damaged is reported once, in the same way.
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
                f"the end of the run was not pushed: {describe(problem)}; to repeat the push, run "
                f"`{command}`"
            )
        problems += self._take_damaged()
        if problems:
            raise EnvironmentProblem("; ".join(problems))

    def report(self, event: Event) -> None:
        """Start the push thread, or request a push.

        Raises:
            EnvironmentProblem: the last push failed or a damaged checkpoint was skipped, and this
                was not reported yet.
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
        if self._findings == MAX_FINDINGS:
            return
        problem, self._problem = self._problem, None
        problems = [*([describe(problem)] if problem else []), *self._take_damaged()]
        if problems:
            self._findings += 1
            text = "; ".join(problems)
            raise EnvironmentProblem(
                f"{text}; training continues, and the next checkpoint triggers a new push"
            )

    def _take_damaged(self) -> list[str]:
        """Return the skipped damaged checkpoints that were not reported yet."""
        damaged = {n: why for n, why in self._damaged.items() if n not in self._reported}
        self._reported |= damaged.keys()
        return [
            redact(f"{name} is damaged and was not pushed: {why}") for name, why in damaged.items()
        ]

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
        # Imported here, because object store libraries are large.
        from tunesmith_remote.bucket import Bucket
        from tunesmith_remote.push import push_run

        damaged = push_run(self._folder.path, Bucket(self._url)).damaged
        self._damaged = {**self._damaged, **damaged}  # A new dict, because another thread reads it.


def choose_url(folder: Path, base: str, name: str) -> str:
    """Return the URL for a run below ``base``: its existing mirror, or one with its name."""
    mirror = find_mirror(folder)
    if mirror and mirror.url.rpartition("/")[0] == base:
        return mirror.url
    return f"{base}/{name}"


def describe(problem: Exception) -> str:
    """Format an error with its hint, without secrets."""
    hint = getattr(problem, "hint", None)
    return redact(f"{problem}; {hint}" if hint else str(problem))


REMOTE_REPORTER = ReporterOffer(
    name="remote",
    summary="mirrors the run to object storage if [remote] url is set",
    config=NoOptions,
    build=lambda options, folder: RemoteReporter(folder),
    always=True,
)
