"""Checks of reporters: they accept every event, and close after every run."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.contracts import Reporter
from tunesmith.events import EVENT_TYPES
from tunesmith.storage import RunFolder
from tunesmith.testing.checks import NotApplicable, Subject, check, require
from tunesmith.testing.sample_run import sample_run

HOSTILE = "[bold]\x1b[31m日本\u202e{0}%s"
"""Text as models and users may write it: markup, escapes, other scripts, format characters."""


@contextmanager
def open_reporter(subject: Subject, output: io.StringIO | None = None) -> Iterator[Reporter]:
    """Open a reporter with a temporary run folder; its output goes into ``output``."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        folder.mkdir()
        (folder / "lock").touch()
        output = output or io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            built = subject.offer.build(subject.options(), RunFolder(folder))
            with built as reporter:
                yield reporter


@check("reporter")
def accepts_every_event(subject: Subject) -> None:
    """Every event is accepted: all kinds, hostile text, unknown totals, nested and failed runs."""
    complete = list(sample_run(HOSTILE))
    kinds = {event.kind for event in complete}
    assert kinds == set(EVENT_TYPES), f"the kit lacks {set(EVENT_TYPES) - kinds}"
    for events in (
        complete,
        sample_run(HOSTILE, status="failed"),
        sample_run(HOSTILE, total=None),
        [*complete[1:], *complete],
    ):
        with open_reporter(subject) as reporter:
            for event in events:
                try:
                    reporter.report(event)
                except Exception as error:
                    raise AssertionError(
                        f"{event.kind} raises {type(error).__name__}: {error}"
                    ) from None


@check("reporter")
def closes_after_failure(subject: Subject) -> None:
    """The reporter closes all files when a run fails, ends threads, and lets the exception pass."""
    before, threads = list_open_files(), set(threading.enumerate())
    complete = list(sample_run(HOSTILE))
    for events in ([], complete[:4], complete):
        try:
            with open_reporter(subject) as reporter:
                for event in events:
                    with contextlib.suppress(Exception):  # checked by accepts_every_event
                        reporter.report(event)
                raise ZeroDivisionError("the kit ends the run")
        except ZeroDivisionError:
            continue
        raise AssertionError("it swallows the exception that ended the run")
    leaked = list_open_files() - before
    require(not leaked, f"it leaves open: {', '.join(sorted(leaked)[:3])}")
    running = sorted(thread.name for thread in set(threading.enumerate()) - threads)
    require(not running, f"threads go on: {', '.join(running[:3])}")


@check("reporter")
def leaves_events_unchanged(subject: Subject) -> None:
    """A reporter changes no event: the next reporter sees it as it was."""
    with open_reporter(subject) as reporter:
        for event in sample_run(HOSTILE):
            before = repr(event)
            with contextlib.suppress(Exception):  # checked by accepts_every_event
                reporter.report(event)
            require(repr(event) == before, f"it changes {event.kind}")


@check("reporter of every run")
def reporters_of_every_run_are_silent(subject: Subject) -> None:
    """A reporter of every run prints nothing and requires no option."""
    missing = [
        name for name, info in subject.offer.config.model_fields.items() if info.is_required()
    ]
    require(not missing, f"it requires the options {', '.join(missing)}")
    output = io.StringIO()
    with open_reporter(subject, output) as reporter:
        for event in sample_run(HOSTILE):
            reporter.report(event)
    require(not output.getvalue(), f"it prints {output.getvalue()[:80]!r}")


def list_open_files() -> set[str]:
    """Return the open files of this process.

    Raises:
        NotApplicable: the system does not list them.
    """
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        raise NotApplicable("this system does not list open files")
    files = set()
    for entry in listing.iterdir():
        with contextlib.suppress(OSError):
            files.add(f"{entry.name} {os.readlink(entry)}")
    return {text for text in files if "/proc/" not in text}
