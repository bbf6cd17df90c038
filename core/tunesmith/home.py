"""Paths in the home folder of the user, also where there is no home folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

NO_HOME = Path("/nonexistent")
"""Where no file is found and none can be written: the home of users that have none, in Debian."""


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return the path with ``~`` replaced by the home folder, and unchanged if there is none.

    ``Path.expanduser`` raises for a user without a home, as in a container with any user id.
    """
    return Path(os.path.expanduser(path))


def user_folder(variable: str, default: str, environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder ``tunesmith`` in a folder of the user, such as that of caches.

    Args:
        variable: the environment variable of the XDG standard that names the folder of the user.
        default: the folder if the variable is unset, beginning with ``~``.
    """
    variables = os.environ if environment is None else environment
    base = expand_home(variables.get(variable) or default)
    return (base if base.is_absolute() else NO_HOME) / "tunesmith"
