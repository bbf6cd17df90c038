"""Global state is the same after a plugin's call, and its changes are named."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.global_state import (
    VARIABLES_READ_AT_LOAD,
    GlobalState,
    add_global_state,
    preserve_global_state,
)


def state() -> dict[str, Any]:
    return {
        "variables": dict(os.environ),
        "folder": os.getcwd(),
        "filters": [*warnings.filters],
        "handler": signal.getsignal(signal.SIGTERM),
        "pipe": signal.getsignal(signal.SIGPIPE),
        "garbage": gc.isenabled(),
        "limit": sys.getrecursionlimit(),
        "locale": locale.setlocale(locale.LC_ALL),
        "log": (logging.getLogger().level, [*logging.getLogger().handlers]),
        "random": random.getstate(),
    }


def change_locale() -> None:
    other = "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C"
    locale.setlocale(locale.LC_ALL, other)


CHANGES: dict[str, tuple[Callable[[], object], list[str]]] = {
    "folder": (lambda: os.chdir("/"), ["the current folder"]),
    "filters": (lambda: warnings.simplefilter("error"), ["the warning filters"]),
    "signals": (lambda: signal.signal(signal.SIGTERM, print), ["the signal handlers"]),
    "another signal": (
        lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
        ["the signal handlers"],
    ),
    "garbage": (gc.disable, ["the garbage collector"]),
    "recursion": (lambda: sys.setrecursionlimit(5_000), ["the recursion limit"]),
    "locale": (change_locale, ["the locale"]),
    "log level": (lambda: logging.getLogger().setLevel(7), ["the root logger"]),
    "log handler": (
        lambda: logging.getLogger().addHandler(logging.NullHandler()),
        ["the root logger"],
    ),
    "random": (random.random, []),
    "added": (lambda: os.environ.update(ADDED="1"), ["the environment variable ADDED"]),
    "changed": (lambda: os.environ.update(KEPT="2"), ["the environment variable KEPT"]),
    "removed": (lambda: os.environ.pop("KEPT"), ["the environment variable KEPT"]),
}


@pytest.fixture(autouse=True)
def undo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_undone_and_named(change: str) -> None:
    make, names = CHANGES[change]
    before = state()
    with preserve_global_state() as changes:
        make()
        assert state() != before
    assert state() == before
    assert changes == names


def test_a_change_is_undone_after_an_error() -> None:
    before = state()
    with pytest.raises(KeyError), preserve_global_state():
        for make, _ in CHANGES.values():
            make()
        raise KeyError
    assert state() == before


def test_without_changes_nothing_is_named() -> None:
    with preserve_global_state() as changes:
        random.random()
    assert changes == []


class LibraryWarning(UserWarning):
    """A category that a library defines."""


def test_a_filter_for_the_category_of_a_library_is_no_change() -> None:
    """Importing numpy adds one."""
    with warnings.catch_warnings():
        with preserve_global_state() as changes:
            warnings.simplefilter("always", category=LibraryWarning)
        assert changes == []
        assert any(entry[2] is LibraryWarning for entry in warnings.filters)


def test_filters_that_libraries_add_for_their_own_warnings_stay() -> None:
    with preserve_global_state() as changes:
        warnings.filterwarnings("ignore", message="of a library")
    assert changes == []
    assert any(entry[1] and entry[1].pattern == "of a library" for entry in warnings.filters)


def test_new_variables_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES_READ_AT_LOAD:
        monkeypatch.delenv(name, raising=False)
    with preserve_global_state(keep_new_variables=True) as changes:
        monkeypatch.setenv("ADDED", "1")
        os.environ["KEPT"] = "2"
    assert changes == ["the environment variable KEPT"]
    assert (os.environ["ADDED"], os.environ["KEPT"]) == ("1", "1")
    with preserve_global_state() as changes:
        for name in (*VARIABLES_READ_AT_LOAD, "KMP_ADDED"):
            monkeypatch.setenv(name, "256")
    assert changes == []


def test_a_folder_that_was_deleted_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with preserve_global_state() as changes:
        pass
    assert changes == []


def test_a_library_adds_its_state() -> None:
    values = [1]
    added = GlobalState("a test's list", lambda: [*values], lambda old: values.__init__(old))  # type: ignore[misc]
    add_global_state(added)
    try:
        with preserve_global_state() as changes:
            values.append(2)
        assert (values, changes) == ([1], ["a test's list"])
    finally:
        add_global_state(GlobalState("a test's list", lambda: None, lambda old: None))
