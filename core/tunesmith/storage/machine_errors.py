"""Recognize exceptions that the machine or its installation causes, whatever code they end.

A full disk, a limit of the system, or a damaged library may end any line of any part. Such an
exception is neither a bug nor the fault of the plugin that met it.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from pathlib import Path

from tunesmith.errors import EnvironmentProblem
from tunesmith.storage import atomic

_NO_MEMORY = "out of memory"
_NO_PROCESS = "no further thread or process can be started"
_EXHAUSTED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than the limit allows",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: _NO_MEMORY,
    errno.EAGAIN: _NO_PROCESS,
}
_TEXTS = {
    re.compile(r"can't start new thread|pthread_create|Resource temporarily unav"): _NO_PROCESS,
    re.compile(r"failed to map segment|annot allocate memory|can't allocate memory"): _NO_MEMORY,
    re.compile(r"No space left on device"): _EXHAUSTED[errno.ENOSPC],
    re.compile(r"File too large"): _EXHAUSTED[errno.EFBIG],
    re.compile(r"Too many open files"): _EXHAUSTED[errno.EMFILE],
}
"""What libraries make of such errors: only the text is left."""
_LIMITS_HINT = "free some, or raise the limit: `ulimit -a` shows the limits of this shell"
_IMPORTER = "<frozen importlib"


def explain_machine_error(error: BaseException) -> EnvironmentProblem | None:
    """Translate an exception that the machine caused for the user; None if it is another one."""
    if isinstance(error, MemoryError):
        return EnvironmentProblem(_NO_MEMORY, hint=_LIMITS_HINT)
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, (RuntimeError, ImportError)):
        found = next((what for text, what in _TEXTS.items() if text.search(str(error))), None)
        return EnvironmentProblem(f"{found}: {error}", hint=_LIMITS_HINT) if found else None
    return None


def explain_import_error(error: BaseException) -> EnvironmentProblem | None:
    """Translate an exception that was raised while a module was imported; None for others.

    It is for errors that no plugin is known to have caused: the message names the file.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, (ImportError, SyntaxError)) and not any(
        frame.name == "<module>" for frame in frames
    ):
        return None
    named = error.filename if isinstance(error, SyntaxError) else None
    named = error.path if isinstance(error, ImportError) else named
    files = [frame.filename for frame in frames if not frame.filename.startswith(_IMPORTER)]
    where = named or (files[-1] if files else "")
    return EnvironmentProblem(
        f"{where}: cannot be imported, {type(error).__name__}: {' '.join(str(error).split())}",
        hint="install that package again, with pip install --force-reinstall NAME; "
        "`python -c 'import sys; print(sys.path)'` shows where packages come from",
    )


def _explain_os_error(error: OSError) -> EnvironmentProblem | None:
    named = error.filename
    path = os.fsdecode(named) if isinstance(named, (str, bytes)) else ""
    if path and (problem := atomic.explain(error, Path(path))):
        return problem
    what = _EXHAUSTED.get(error.errno or 0)
    where = f"{path}: " if path else ""
    return EnvironmentProblem(f"{where}{what}, {error}", hint=_LIMITS_HINT) if what else None
