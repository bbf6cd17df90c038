"""Global state of the process, which is restored if a plugin changes it.

If an evaluator changed the current folder, or a reporter unset an environment variable, the results
of other plugins could change silently. The core knows the state of Python itself. For the state of
a library, the entry-point group ``tunesmith.global_state`` has a function named after the library's
module. It is called with that module once the library has been imported.
"""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, util
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tunesmith.signals import STOP_SIGNALS, restore_handlers

VARIABLES_READ_AT_LOAD = frozenset({"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"})
"""Variables that torch reads on import. A plugin may set them if the user has not."""
VARIABLES_SET_BY_LIBRARIES = (
    *VARIABLES_READ_AT_LOAD,
    "CUDA_MODULE_LOADING",
    "KMP_",
    "TORCHINDUCTOR_",
    "TRITON_",
)
"""Prefixes of environment variables that libraries set when they are first used."""
_SIGNALS = (*STOP_SIGNALS, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE)


@dataclass(frozen=True)
class GlobalState:
    """One piece of global state, such as the current folder, which can be read and restored.

    The values that :attr:`read` returns can be compared with ``==``.
    """

    name: str
    """Name for messages, such as ``the current folder``."""
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    is_reported: bool = True
    """False to restore it silently, because plugins may change it, like a random generator."""


_states: dict[str, GlobalState] = {}


def add_global_state(*states: GlobalState) -> None:
    """Register states to restore from now on; a state with the same name is replaced."""
    _states.update({state.name: state for state in states})


@contextmanager
def preserve_global_state(
    *, keep_new_variables: bool = False, keep_streams: bool = False
) -> Iterator[list[str]]:
    """Restore the global state after the block; yield a list that afterwards names the changes.

    ``keep_new_variables`` keeps environment variables that the block added. ``keep_streams`` keeps
    standard streams that it replaced, as a live display does.
    """
    for name in _library_points().keys() & sys.modules.keys():
        with suppress(AttributeError):  # another thread is importing the library
            _add_states_of(name)
    before = [
        (state, state.read())
        for state in _states.values()
        if not (keep_streams and state is STREAMS)
    ]
    variables = dict(os.environ)
    changes: list[str] = []
    watch = _ImportWatch(before)
    sys.meta_path.insert(0, watch)
    try:
        yield changes
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(watch)
        for state, value in before:
            if state.read() != value:
                state.restore(value)
                changes += [state.name] if state.is_reported else []
        if os.environ != variables:
            changes += _restore_variables(variables, keep_new_variables)


@cache
def _library_points() -> dict[str, metadata.EntryPoint]:
    """Return, by module name of a library, the functions that list the library's state."""
    points: Iterable[metadata.EntryPoint] = ()
    with suppress(Exception):  # unreadable entry points are reported by `tunesmith plugins list`
        entry_points = metadata.distribution("tunesmith").entry_points
        points = entry_points.select(group="tunesmith.global_state")
    return {point.name: point for point in points}


@cache
def _add_states_of(library: str) -> Sequence[GlobalState]:
    """Register the states of a library that has been imported."""
    states: Sequence[GlobalState] = _library_points()[library].load()(sys.modules[library])
    add_global_state(*states)
    return states


@dataclass(eq=False)
class _ImportWatch(MetaPathFinder):
    """Reads a library's state right after its import, before the importing code can change it."""

    before: list[tuple[GlobalState, Any]]

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in _library_points() or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        try:
            spec = util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_read(module: ModuleType) -> None:
                execute(module)
                self.before.extend((state, state.read()) for state in _add_states_of(name))

            spec.loader.exec_module = execute_and_read  # type: ignore[method-assign]
        return spec


def _restore_variables(before: Mapping[str, str], keep_new: bool) -> Iterator[str]:
    """Restore the environment variables; yield a phrase for each one whose change was undone."""
    for name in sorted(before.keys() | os.environ.keys()):
        if os.environ.get(name) == before.get(name):
            continue
        if name in before:
            os.environ[name] = before[name]
        elif keep_new or name.startswith(VARIABLES_SET_BY_LIBRARIES):
            continue
        else:
            del os.environ[name]
        yield f"the environment variable {name}"


def _current_folder() -> str | None:
    with suppress(OSError):  # the folder was deleted
        return os.getcwd()
    return None


@dataclass(frozen=True)
class _Filters:
    """Warning filters; only those for all modules and Python's own categories are compared."""

    general: list[Any]
    all: list[Any] = field(compare=False)


def _read_filters() -> _Filters:
    general = [e for e in warnings.filters if not (e[1] or e[3]) and e[2].__module__ == "builtins"]
    return _Filters(general, [*warnings.filters])


def _restore_filters(filters: _Filters) -> None:
    warnings.filters[:] = filters.all  # type: ignore[index]
    with warnings.catch_warnings():
        pass  # on exit, Python forgets decisions that were cached under other filters


def _restore_root_logger(state: tuple[int, list[logging.Handler]]) -> None:
    logging.root.setLevel(state[0])
    logging.root.handlers[:] = state[1]


def _read_umask() -> int:
    """Return the umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _restore_streams(streams: tuple[Any, Any, Any]) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


STREAMS = GlobalState(
    "the standard streams", lambda: (sys.stdin, sys.stdout, sys.stderr), _restore_streams
)
add_global_state(
    GlobalState("the current folder", _current_folder, lambda folder: os.chdir(folder or ".")),
    GlobalState("the warning filters", _read_filters, _restore_filters),
    GlobalState(
        "the signal handlers", lambda: {n: signal.getsignal(n) for n in _SIGNALS}, restore_handlers
    ),
    GlobalState("the file mode creation mask (umask)", _read_umask, os.umask),
    STREAMS,
    GlobalState("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    GlobalState(
        "the garbage collector", gc.isenabled, lambda on: gc.enable() if on else gc.disable()
    ),
    GlobalState(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda name: locale.setlocale(locale.LC_ALL, name),
    ),
    GlobalState(
        "the root logger",
        lambda: (logging.root.level, [*logging.root.handlers]),
        _restore_root_logger,
    ),
    GlobalState("Python's random generator", random.getstate, random.setstate, is_reported=False),
)
