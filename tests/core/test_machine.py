"""Exceptions that the machine causes are told from bugs, and say what is used up."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tunesmith import machine
from tunesmith.machine import explain_machine_error


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out of memory"),
        (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "thread or process"),
        (OSError(errno.EFBIG, "File too large", "/x/y"), "/x/y: the file would exceed"),
        (OSError(errno.EACCES, "Permission denied", b"/x/\xff"), "no permission"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (RuntimeError("can't start new thread"), "thread or process"),
        (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
        (OSError(errno.ENOENT, "No such file", "/x"), None),
        (RuntimeError("size mismatch"), None),
        (ValueError("File too large"), None),
    ],
    ids=repr,
)
def test_what_is_used_up_is_named(error: Exception, what: str | None) -> None:
    problem = explain_machine_error(error)
    assert (problem is None) if what is None else (problem and what in problem.message)


def test_a_user_without_a_home_folder_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "~")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert machine.expand_home("~/x") == Path("~/x")
    assert machine.user_folder("XDG_CACHE_HOME", "~/.cache") == machine.NO_HOME / "tunesmith"
    monkeypatch.setenv("HOME", "/home/ada")
    assert machine.user_folder("XDG_CACHE_HOME", "~/.cache") == Path("/home/ada/.cache/tunesmith")
    assert machine.expand_home("~no-such-user/x") == Path("~no-such-user/x")
