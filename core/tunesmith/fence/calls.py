"""Call the code of plugins inside a fence.

A plugin is trusted code, but it may have faults. Inside the fence, an exception, an exit or a call
that never returns becomes an error that names the plugin. Its output goes to stderr, and global
state that it changes is restored and reported. The fence guards against accidents, not attacks.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from threading import Timer
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

from pluggy import PluginValidationError

from tunesmith import import_strings
from tunesmith.command_offers import Offered, Plugin
from tunesmith.errors import EnvironmentProblem, PluginError, TunesmithError, UsageError
from tunesmith.signals import end_process, restore_handlers

if TYPE_CHECKING:
    from tunesmith.records import Record

R = TypeVar("R")
SECONDS_VARIABLE = "TUNESMITH_HOOK_SECONDS"
GRACE_SECONDS = 10.0
"""If a call cannot be interrupted, the process is ended this many seconds after the time limit."""
_UNKNOWN_NAME = (AttributeError, ImportError, NameError, TypeError, PluginValidationError)
_real_stdout: list[TextIO] = []  # the outermost fence comes first


class DataChangedError(PluginError):
    """A plugin changed a record of the data, so the run cannot continue."""


class PluginTimeout(BaseException):
    """A call took too long. Not an ``Exception``, so that ``except Exception`` cannot hide it."""


def hook_seconds(*, has_rows: bool = False) -> float | None:
    """Return the time limit of a hook in seconds, ten times as long with a run's rows; None: none.

    Raises:
        UsageError: the environment variable is not a number of seconds.
    """
    text = os.environ.get(SECONDS_VARIABLE) or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        hint = "0 means no limit; the default is 60"
        what = f"must be a number of seconds, got {text!r:.80}"
        raise UsageError(f"{SECONDS_VARIABLE}: {what}", hint=hint)
    return seconds * (10 if has_rows else 1) or None


@contextmanager
def fence(
    plugin: Plugin,
    what: str = "",
    *,
    seconds: float | None = None,
    guards_state: bool | None = None,
    may_take_long: bool = False,
) -> Iterator[list[str]]:
    """Run a plugin's code in the block inside the fence; yield a list of changed global state.

    The list is filled when the block ends.

    Args:
        what: the function of the plugin, for messages.
        seconds: the time limit; None: no limit, but a note is printed after a minute.
        may_take_long: set no limit and print no note.
        guards_state: True restores the global state, in a fraction of a millisecond. None does so
            unless the plugin is built in, because built-in plugins are tested to change nothing.

    Raises:
        PluginError: the code raised an exception, exited, or took too long.
    """
    where = f" in {what}" if what else ""
    options: Any = {"guards_state": guards_state, "may_take_long": may_take_long}
    isolated = isolate(plugin, what, seconds=seconds, **options)
    with attribute_errors_to(plugin, where), isolated as changes:
        yield changes


@contextmanager
def isolate(  # noqa: PLR0913 - a plugin, and what the block may do
    plugin: Plugin,
    what: str,
    *,
    seconds: float | None = None,
    guards_state: bool | None = None,
    may_take_long: bool = False,
    keep_new_variables: bool = True,
    is_reporter: bool = False,
) -> Iterator[list[str]]:
    """Run a plugin's code as :func:`fence` does, but leave exceptions to the caller.

    Args:
        keep_new_variables: keep environment variables that were not set before.
        is_reporter: the block may print, and the time limit never ends the process.
    """
    changes: list[str] = []
    with ExitStack() as stack:
        if not may_take_long:
            stack.enter_context(_limit(plugin, what, seconds, may_end_process=not is_reporter))
        if not is_reporter:
            _real_stdout.append(sys.stdout)
            stack.callback(_real_stdout.pop)
            stack.enter_context(redirect_stdout(sys.stderr))
        if not plugin.is_builtin:
            stack.enter_context(_refuse_exit(plugin, what))
        if not plugin.is_builtin if guards_state is None else guards_state:
            # Not at the top: help imports plugins too, and does not need it for built-in ones.
            from tunesmith.global_state import preserve_global_state

            changes = stack.enter_context(
                preserve_global_state(
                    keep_new_variables=keep_new_variables, keep_streams=is_reporter
                )
            )
        yield changes


def call_in_fence(
    offered: Offered[Any], name: str, function: Callable[..., R], *arguments: object
) -> R:
    """Call a function of an offer in the fence, and return its answer."""
    plugin = offered.plugin
    with fence(plugin, f"{name} of {offered.offer.name}"):
        return function(*arguments)


@contextmanager
def outside_fence() -> Iterator[None]:
    """Let the core print to stdout in the block, even if a plugin's code called it."""
    if not _real_stdout:
        yield
        return
    with redirect_stdout(_real_stdout[0]):
        yield


@contextmanager
def attribute_errors_to(plugin: Plugin, where: str = "") -> Iterator[None]:
    """Turn an unexpected exception of the plugin's code into an error that names the plugin.

    Exceptions that tunesmith defines (a data error, a stopped run) pass unchanged, unless their
    exit code would report success.

    Raises:
        EnvironmentProblem: the machine has no memory, files, processes or disk space left.
        PluginError: has the plugin's name and version and the line that raised.
    """
    try:
        yield
    except BaseException as error:
        if is_of_user(error) or (isinstance(error, TunesmithError) and error.exit_code):
            raise
        from tunesmith.machine import explain_machine_error

        if problem := explain_machine_error(error):
            text = f'{problem.message} (in plugin "{plugin.full_name}"{where})'
            raise EnvironmentProblem(text, hint=problem.hint) from error
        raise PluginError(
            f'plugin "{plugin.full_name}"{plugin.version and " " + plugin.version} failed{where}: '
            f"{describe_error(error)}",
            hint="run again with --debug for the traceback",
        ) from error


def is_of_user(error: BaseException) -> bool:
    """Return True if the fence must re-raise the exception unchanged.

    These are Ctrl-C with Python's default handler, and ``GeneratorExit``.
    """
    if isinstance(error, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, GeneratorExit)


def describe_error(error: BaseException) -> str:
    """Describe an exception on one line: type, message, file and line."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    own = [frame for frame in frames if frame.filename != __file__]  # skip the frames of the fence
    # The message of a failed import has the import string.
    is_named = not own or own[-1].filename == import_strings.__file__
    where = "" if is_named else f" ({os.path.basename(own[-1].filename)}:{own[-1].lineno})"
    text = " ".join(str(error).split())
    if isinstance(error, _UNKNOWN_NAME):
        from tunesmith.renamed import explain_renaming

        text += explain_renaming(text)
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


@contextmanager
def note_if_slow(plugin: Plugin, what: str, seconds: float = 60.0) -> Iterator[None]:
    """Print a note on stderr if the block takes longer than ``seconds``: the plugin may hang."""
    text = f"plugin {plugin.full_name!a} is still busy in {what} after {seconds:g} s"
    timer = Timer(seconds, print, [text], {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def require_unchanged(plugin: Plugin, *parts: Sequence[Record]) -> Iterator[None]:
    """Check that the block does not change a record in these splits of the data.

    Raises:
        DataChangedError: names the plugin and the record.
    """
    before = [[*map(hash, part)] for part in parts]
    yield
    for hashes, part in zip(before, parts, strict=True):
        check_unchanged(hashes, part, plugin)


def check_unchanged(content: Sequence[int], records: Sequence[Record], plugin: Plugin) -> None:
    """Check that a plugin has not changed a record, given earlier hashes of the records.

    Raises:
        DataChangedError: names the plugin and the record.
    """
    from tunesmith.records import is_immutable

    changed = f"{len(content)} records to {len(records)}" if len(content) != len(records) else ""
    for before, record in zip(content, records, strict=False):
        if not is_immutable(record) or hash(record) != before:
            changed = changed or f"the record {record.source}"
    if changed:
        raise DataChangedError(
            f'plugin "{plugin.full_name}" changed {changed}; plugins must not change records'
        )


@contextmanager
def _limit(
    plugin: Plugin, what: str, seconds: float | None, *, may_end_process: bool
) -> Iterator[None]:
    """Interrupt the block when its time is up; without a limit, print a note after a minute.

    A timer signal interrupts Python code and blocking system calls. If native code does not return,
    the process is ended and its stack is printed. Only the main thread receives signals: other
    threads get the note.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not is_main:
        with note_if_slow(plugin, what):
            yield
        return
    is_open = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        if is_open:
            raise PluginTimeout(f"did not finish within {seconds:g} s")

    import faulthandler

    handler = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    started = time.monotonic()
    if may_end_process:  # takes a millisecond, too much for each event
        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        is_open = False
        if may_end_process:
            faulthandler.cancel_dump_traceback_later()
        used = time.monotonic() - started
        signal.setitimer(signal.ITIMER_REAL, left and max(left - used, 0.001), interval)
        restore_handlers({signal.SIGALRM: handler})


@contextmanager
def _refuse_exit(plugin: Plugin, what: str) -> Iterator[None]:
    """Make ``os._exit`` in the block report an error that names the plugin, never success.

    In the main thread, ``os._exit(0)`` raises SystemExit instead of ending the process.
    """
    process, before = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:  # a process that the plugin has forked
            end_process(status)
        if not status and threading.current_thread() is threading.main_thread():
            raise SystemExit("os._exit(0)")
        text = f"error: plugin {plugin.full_name!a} called os._exit({status}) in {what}"
        print(text, file=sys.stderr, flush=True)
        end_process(status or PluginError.exit_code)

    _set_exit(refuse)
    try:
        yield
    finally:
        _set_exit(before)


def _set_exit(function: Any) -> None:
    os._exit = function
