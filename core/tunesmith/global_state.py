"""State of the process that a plugin could change: it is restored after the plugin's call.

An evaluator that changes the current folder, or a reporter that unsets an environment variable,
would change the results of other plugins without a word. The core knows the state of Python;
libraries add theirs with :func:`add_global_state`.
"""

from __future__ import annotations

import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tunesmith.signals import STOP_SIGNALS

READ_AT_LOAD = frozenset({"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"})
"""Variables that torch reads when it loads: a plugin may set them where the user has not."""
SET_BY_LIBRARIES = ("CUDA_MODULE_LOADING", "KMP_", "TORCHINDUCTOR_", "TRITON_")
"""Beginnings of the names of variables that libraries set themselves when they are first used."""


@dataclass(frozen=True)
class GlobalState:
    """One piece of global state. Two values that :attr:`read` returns can be compared."""

    name: str
    """Name for messages, such as ``the current folder``."""
    read: Callable[[], Any]
    restore: Callable[[Any], None]
    is_reported: bool = True
    """False if a plugin may change it, as a random number generator: it is restored silently."""


def add_global_state(state: GlobalState) -> None:
    """Restore this state too, from now on; a state with the same name is replaced."""
    _STATES[state.name] = state


@contextmanager
def preserve_global_state(*, keep_new_variables: bool = False) -> Iterator[list[str]]:
    """Restore the global state after the block; yield a list that then names the changes.

    With ``keep_new_variables`` the environment variables that the block added are kept.
    """
    before = [(state, state.read()) for state in _STATES.values()]
    variables = dict(os.environ)
    changes: list[str] = []
    try:
        yield changes
    finally:
        for state, value in before:
            if state.read() != value:
                state.restore(value)
                if state.is_reported:
                    changes.append(state.name)
        changes += _restore_variables(variables, keep_new_variables)


def _restore_variables(before: dict[str, str], keep_new: bool) -> list[str]:
    after = dict(os.environ)
    changed = [name for name in before if after.get(name) != before[name]]
    added = [] if keep_new else sorted(after.keys() - before.keys() - READ_AT_LOAD)
    new = [name for name in added if not name.startswith(SET_BY_LIBRARIES)]
    for name in changed:
        os.environ[name] = before[name]
    for name in new:
        del os.environ[name]
    return [f"the environment variable {name}" for name in (*changed, *new)]


def _current_folder() -> str | None:
    with suppress(OSError):  # it was deleted
        return os.getcwd()
    return None


def _enter_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _restore_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    with warnings.catch_warnings():
        pass  # leaving it makes the module forget decisions that it made by other filters


def _set_locale(value: str) -> None:
    locale.setlocale(locale.LC_ALL, value)


def _stop_signal_handlers() -> list[Any]:
    return [signal.getsignal(number) for number in STOP_SIGNALS]


def _restore_handlers(handlers: list[Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in zip(STOP_SIGNALS, handlers, strict=True):
            if handler is not None:  # None: it was not set from Python
                signal.signal(number, handler)


_STATES: dict[str, GlobalState] = {
    state.name: state
    for state in (
        GlobalState("the current folder", _current_folder, _enter_folder),
        GlobalState("the filters of warnings", lambda: [*warnings.filters], _restore_filters),
        GlobalState("the signal handlers", _stop_signal_handlers, _restore_handlers),
        GlobalState("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        GlobalState(
            "the locale",
            lambda: locale.setlocale(locale.LC_ALL),
            _set_locale,
        ),
        GlobalState(
            "Python's random generator", random.getstate, random.setstate, is_reported=False
        ),
    )
}
