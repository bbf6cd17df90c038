"""Errors caused by the machine, such as a full disk, and the user's folders on it.

Any line of code can fail because of a full disk or a system limit. Such an exception is neither a
bug nor the fault of the plugin where it occurred.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tunesmith.errors import EnvironmentProblem
from tunesmith.text import format_bytes

_NO_MEMORY = "out of memory"
_NO_PROCESS = "cannot start another thread or process"
_SPACE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the size limit (`ulimit -f`)",
}
_DEVICE_ERRORS = {
    errno.EIO: "the disk reported an error",
    errno.EROFS: "the file system is read-only",
    errno.ESTALE: "it was removed or re-exported on the file server",
}
_ACCESS_ERRORS = {
    errno.EACCES: "no permission",
    errno.EPERM: "not permitted",
    errno.ELOOP: "is a symbolic link, which is not followed",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOLCK: "this file system does not support locks",
    errno.ENOTSUP: "this file system does not support this operation",
}
_EXHAUSTED = {
    errno.EMFILE: _ACCESS_ERRORS[errno.EMFILE],
    errno.ENFILE: _ACCESS_ERRORS[errno.ENFILE],
    errno.ENOMEM: _NO_MEMORY,
    errno.EAGAIN: _NO_PROCESS,
    **_SPACE_ERRORS,
}
"""Errors about exhausted resources, which can be explained without a path."""
_TEXTS = {
    re.compile(r"can't start new thread|pthread_create|Resource temporarily unav"): _NO_PROCESS,
    re.compile(r"failed to map segment|annot allocate memory|can't allocate memory"): _NO_MEMORY,
    re.compile(r"No space left on device"): _SPACE_ERRORS[errno.ENOSPC],
    re.compile(r"File too large"): _SPACE_ERRORS[errno.EFBIG],
    re.compile(r"Too many open files"): _ACCESS_ERRORS[errno.EMFILE],
}
"""The same errors, recognized by message if a library does not pass on the error number."""
_LIMITS_HINT = "free resources, or raise the limit: `ulimit -a` shows the limits of this shell"
_RESUME_HINT = "`tunesmith resume RUN` continues from the last checkpoint"


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of ``path``, which does not have to exist yet."""
    here = path.absolute()
    while not here.exists():
        here = here.parent
    return shutil.disk_usage(here).free


def explain_os_error(error: OSError, path: Path, needed: int = 0) -> EnvironmentProblem | None:
    """Return a user-facing error for an OSError; None if the machine did not cause it."""
    if error.errno in _SPACE_ERRORS:
        space = f"{format_bytes(free_bytes(path))} free"
        space += f", at least {format_bytes(needed)} needed" if needed else ""
        return EnvironmentProblem(
            f"{path}: {_SPACE_ERRORS[error.errno]}, {space}",
            hint=f"free some disk space; files saved earlier are intact, and {_RESUME_HINT}",
        )
    if error.errno in _DEVICE_ERRORS:
        return EnvironmentProblem(
            f"{path}: {_DEVICE_ERRORS[error.errno]}, {error}",
            hint=f"check the disk or mount; files saved earlier are intact, and {_RESUME_HINT}",
        )
    if error.errno in _ACCESS_ERRORS:
        return EnvironmentProblem(f"{path}: {_ACCESS_ERRORS[error.errno]}, {error}")
    return None


def explain_machine_error(error: BaseException) -> EnvironmentProblem | None:
    """Return a user-facing error for an exception caused by the machine; None for any other."""
    if isinstance(error, MemoryError):
        return EnvironmentProblem(_NO_MEMORY, hint=_LIMITS_HINT)
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, (RuntimeError, ImportError)):
        found = next((what for text, what in _TEXTS.items() if text.search(str(error))), None)
        return EnvironmentProblem(f"{found}: {error}", hint=_LIMITS_HINT) if found else None
    return None


def _explain_os_error(error: OSError) -> EnvironmentProblem | None:
    named = error.filename
    path = os.fsdecode(named) if isinstance(named, (str, bytes)) else ""
    if path and (problem := explain_os_error(error, Path(path))):
        return problem
    what = _EXHAUSTED.get(error.errno or 0)
    where = f"{path}: " if path else ""
    return EnvironmentProblem(f"{where}{what}, {error}", hint=_LIMITS_HINT) if what else None


NO_HOME = Path("/nonexistent")
"""Debian's home folder for users who have no home: it does not exist and cannot be created."""


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Replace ``~`` in a path with the home folder, if the user has one.

    ``Path.expanduser`` raises for a user without a home, as in a container with an arbitrary user
    id.
    """
    return Path(os.path.expanduser(path))


def user_folder(variable: str, default: str, environment: Mapping[str, str] | None = None) -> Path:
    """Return the subfolder ``tunesmith`` of one of the user's folders, such as the cache folder.

    For a user without a home, it is in a folder that cannot be created, :data:`NO_HOME`.

    Args:
        variable: XDG environment variable that names the user folder.
        default: the user folder if the variable is unset, starting with ``~``.
    """
    variables = os.environ if environment is None else environment
    base = expand_home(variables.get(variable) or default)
    return (base if base.is_absolute() else NO_HOME) / "tunesmith"
