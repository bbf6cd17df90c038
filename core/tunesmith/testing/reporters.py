"""Checks of plugins that send or write results: reporters, exporters, serve extensions.

Reporters accept every event and close after every run. Exporters write files for their engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp, fsum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tunesmith.contracts import Reporter
from tunesmith.events import EVENT_TYPES, Event
from tunesmith.fence import describe_error
from tunesmith.records import Message
from tunesmith.storage import RunFolder
from tunesmith.testing.checks import NeedsSample, NotApplicable, Subject, check, require
from tunesmith.testing.sample_run import sample_run

HOSTILE_TEXT = "[bold]\x1b[31m日本\u202e{0}%s"
"""Difficult text that models and users may write: markup, terminal escapes, other scripts."""
EXPORT_PROMPT = (Message("user", "What is the capital of Spain? 12345 é"),)
EXPORT_FACTS = {"end_ids", "rope_theta", "tied", "tokens"}


@dataclass(frozen=True, kw_only=True)
class OwnEvent(Event, kind="kit-own-event"):
    """An event of a kind that only another plugin knows."""

    text: str


def core_event_types() -> list[type[Event]]:
    """Return the event classes of tunesmith, without the classes of plugins."""
    return [cls for cls in EVENT_TYPES.values() if cls.__module__ == Event.__module__]


@contextmanager
def open_reporter(subject: Subject, output: io.StringIO | None = None) -> Iterator[Reporter]:
    """Open a reporter with a temporary run folder; capture its output in ``output``."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        folder.mkdir()
        (folder / "lock").touch()
        output = output or io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            built = subject.offer.build(subject.options(), RunFolder(folder))
            with built as reporter:
                yield reporter


@contextmanager
def use_reporter(subject: Subject, output: io.StringIO | None = None) -> Iterator[Reporter]:
    """Open a reporter in a temporary working folder, where a tracker may write invented runs."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        open_reporter(subject, output) as reporter,
    ):
        yield reporter


@check("reporter")
def accepts_every_event(subject: Subject) -> None:
    """The reporter accepts every event, with any text, even of other plugins and failed runs."""
    complete = list(sample_run(HOSTILE_TEXT))
    lacking = {cls.kind for cls in core_event_types()} - {event.kind for event in complete}
    assert not lacking, f"the kit lacks {lacking}"
    for events in (
        [*complete, OwnEvent(text=HOSTILE_TEXT)],
        sample_run(HOSTILE_TEXT, status="failed"),
        sample_run(HOSTILE_TEXT, total=None),
        [*complete[1:], *complete],
    ):
        with use_reporter(subject) as reporter:
            for event in events:
                try:
                    reporter.report(event)
                except Exception as error:
                    if lacks_service(error):
                        raise NeedsSample(
                            f"cannot reach the reporter's service ({error}): start it on this "
                            "machine, and pass its address as an option"
                        ) from None
                    what = f"the event {event.kind} raises {describe_error(error)}"
                    raise AssertionError(what) from None


def lacks_service(error: BaseException | None) -> bool:
    """Return True if a connection was refused or timed out, or a host name was not found."""
    while error is not None:
        if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
            return True
        error = error.__cause__ or error.__context__
    return False


@check("reporter")
def closes_after_failure(subject: Subject) -> None:
    """After a failed run, the reporter closes files, ends threads, and lets the exception pass."""
    before, threads = list_open_files(), set(threading.enumerate())
    complete = list(sample_run(HOSTILE_TEXT))
    for events in ([], complete[:4], complete):
        try:
            with use_reporter(subject) as reporter:
                for event in events:
                    with contextlib.suppress(Exception):  # checked by accepts_every_event
                        reporter.report(event)
                raise ZeroDivisionError("the kit ends the run")
        except ZeroDivisionError:
            continue
        raise AssertionError("the reporter swallows the exception that ended the run")
    leaked = list_open_files() - before
    require(not leaked, f"the reporter leaves files open: {', '.join(sorted(leaked)[:3])}")
    running = sorted(thread.name for thread in set(threading.enumerate()) - threads)
    require(not running, f"the reporter leaves threads running: {', '.join(running[:3])}")


@check("reporter")
def leaves_events_unchanged(subject: Subject) -> None:
    """The reporter does not change events: the next reporter sees them unchanged."""
    with use_reporter(subject) as reporter:
        for event in sample_run(HOSTILE_TEXT):
            before = repr(event)
            with contextlib.suppress(Exception):  # checked by accepts_every_event
                reporter.report(event)
            require(repr(event) == before, f"the reporter changes the event {event.kind}")


@check("reporter of every run")
def reporters_of_every_run_are_silent(subject: Subject) -> None:
    """A reporter that every run uses prints nothing and has no required options."""
    missing = [
        name for name, info in subject.offer.config.model_fields.items() if info.is_required()
    ]
    require(not missing, f"the reporter has options without a default: {', '.join(missing)}")
    output = io.StringIO()
    with use_reporter(subject, output) as reporter:
        for event in sample_run(HOSTILE_TEXT):
            reporter.report(event)
    require(not output.getvalue(), f"the reporter prints {output.getvalue()[:80]!r}")


def list_open_files() -> set[str]:
    """Return the open files of this process.

    Raises:
        NotApplicable: the operating system does not list them.
    """
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        raise NotApplicable("this system does not list open files")
    files = set()
    for entry in listing.iterdir():
        with contextlib.suppress(OSError):
            files.add(f"{entry.name} {os.readlink(entry)}")
    return {text for text in files if "/proc/" not in text}


def exported(subject: Subject) -> Path:
    """Return the folder of an export of the sample model; the export is made once."""
    if "exported" not in subject.cache:
        if not hasattr(subject.build(), "export"):
            raise NotApplicable("it writes only trained adapters, and the sample model has none")
        model = subject.samples.model_folder()
        before = _digests(model)
        folder = tempfile.TemporaryDirectory(prefix="tunesmith-kit-")
        out = Path(folder.name) / "out"
        out.mkdir()
        subject.build().export(model, out)
        subject.cache["exported"] = folder, out, before, _digests(model)
    return subject.cache["exported"][1]  # type: ignore[no-any-return]


@check("exporter")
def writes_only_below_its_folder(subject: Subject) -> None:
    """An export writes files only in its folder, and does not change the model folder."""
    out = exported(subject)
    _, _, before, after = subject.cache["exported"]
    require(before == after, "the export changes the model folder")
    require(any(file.is_file() for file in out.rglob("*")), "the export writes no files")
    require([*out.parent.iterdir()] == [out], "the export writes outside its folder")


@check("exporter")
def says_what_the_files_hold(subject: Subject) -> None:
    """The facts about an export have known names, and include the tokens that end an answer."""
    facts = subject.build().facts(exported(subject))
    require(set(facts) <= EXPORT_FACTS, f"unknown facts: {sorted(set(facts) - EXPORT_FACTS)}")
    require(bool(facts.get("end_ids")), "the facts name no token that ends an answer")


@check("exporter")
def refuses_an_incomplete_export(subject: Subject) -> None:
    """An export whose largest file is cut in half is rejected when its facts are read."""
    file = max(exported(subject).rglob("*"), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    try:
        subject.build().facts(exported(subject))
    except Exception:
        return
    finally:
        file.write_bytes(content)
    raise AssertionError(f"{file.name} was cut in half, but the export was not rejected")


@check("exporter")
def the_engine_answers(subject: Subject) -> None:
    """The engine renders, tokenizes, and answers a prompt twice alike, within the token limit."""
    with subject.build().open(exported(subject)) as engine:
        text = engine.render(EXPORT_PROMPT)
        require("capital of Spain" in text, f"the rendered prompt lacks the question: {text!r}")
        require(len(engine.tokenize(text)) > 1, "a prompt has fewer than two tokens")
        first, second = (list(engine.generate([EXPORT_PROMPT], 4)) for _ in range(2))
        require(first == second, "the second answer to a prompt differs from the first")
        require(len(first) == 1 and len(first[0].ids) <= 4, "an answer exceeds the token limit")


@check("exporter")
def log_probabilities_are_distributions(subject: Subject) -> None:
    """The probabilities at each position sum to one."""
    with subject.build().open(exported(subject)) as engine:
        ids = list(engine.tokenize(engine.render(EXPORT_PROMPT)))
        rows: Sequence[Any] = engine.logprobs(ids, len(ids) - 3)
        require(len(rows) == 3, f"the engine returns {len(rows)} distributions for 3 positions")
        for row in rows:
            total = fsum(exp(float(value)) for value in row)
            require(abs(total - 1) < 1e-3, f"the probabilities sum to {total:.4f}, not 1")


def _digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.is_file()
    }


@check("serve extension")
def extensions_take_every_request(subject: Subject) -> None:
    """Without headers, the extension chooses a model name or None; it accepts an empty answer."""
    extension, none = subject.build(), ("",)
    numbers = {"prompt_tokens": 2, "completion_tokens": 0, "seconds": 0.1, "logprobs": ((),)}
    numbers |= {"confidences": (None,)}
    answer = SimpleNamespace(id="1", model="m", texts=none, finish_reasons=none, **numbers)
    for body in ('{"messages": [{"role": "user", "content": "q"}]}', '{"prompt": "q"}'):
        request = SimpleNamespace(model="m", headers={}, body=body)
        chosen = extension.choose(request)
        what = f"the extension must choose a name or None, got {chosen!r:.80}"
        require(chosen is None or isinstance(chosen, str), what)
        extension.observe(request, answer)
