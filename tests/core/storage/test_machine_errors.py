"""Exceptions that the machine causes are told from bugs, and say what is used up."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from tunesmith.storage.machine_errors import explain_import_error, explain_machine_error


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out of memory"),
        (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "thread or process"),
        (OSError(errno.EFBIG, "File too large", "/x/y"), "/x/y: the file would be larger"),
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


@pytest.mark.parametrize("content", ["x = (", "import nowhere_at_all", "1 / 0", "\0"])
def test_a_library_that_cannot_be_imported_is_named_with_its_file(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged_library.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with pytest.raises(Exception) as caught:
        __import__("damaged_library")
    problem = explain_import_error(caught.value)
    assert problem is not None
    assert "damaged_library.py: cannot be imported" in problem.message or content == "\0"


def test_an_error_after_the_imports_is_none_of_a_library() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        assert explain_import_error(error) is None
