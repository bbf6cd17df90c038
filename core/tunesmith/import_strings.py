"""Import strings, which name a class or function that is only imported when it is needed.

Entry points contain import strings. They are read here, because ``tunesmith --help`` needs only
their names, and importing importlib.metadata would take half as long as the rest of the help.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import reduce
from importlib import import_module
from itertools import takewhile
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_CORRECT_IT = 'correct the import string, "package.module:name"'


class ImportString(str):
    """The import string of a class or function, ``package.module:name``.

    A call with arguments imports the object and calls it; a call without arguments returns it.
    """

    def __call__(self, *arguments: Any) -> Any:
        found = self.load()
        return found(*arguments) if arguments else found

    def load(self) -> Any:
        """Import the object that the string names.

        Raises:
            ImportError: the module does not exist, or does not define the name.
        """
        path, _, name = self.partition(":")
        try:
            module = import_module(path)
        except ModuleNotFoundError as error:
            if not f"{path}.".startswith(f"{error.name}."):  # a library that the module needs
                raise
            raise ImportError(f'"{self}": no module named "{error.name}"; {_CORRECT_IT}') from None
        if name not in vars(module):
            raise ImportError(f'"{self}": {module.__file__} has no "{name}"; {_CORRECT_IT}')
        return vars(module)[name]


class Imported(Generic[T]):
    """A dataclass field that contains a class or function, or its import string."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> T:
        if instance is None:  # dataclasses ask a descriptor for the default; this field has none
            raise AttributeError(self.name)
        value: T = vars(instance)[self.name]
        return value

    def __set__(self, instance: object, value: T | str) -> None:
        vars(instance)[self.name] = ImportString(value) if isinstance(value, str) else value


def find_metadata_folders() -> Iterable[str]:
    """Return the metadata folder of each installed distribution, as importlib.metadata finds it.

    If ``sys.path`` has a distribution twice, as with an editable install next to a wheel, the first
    one counts, because Python imports it.
    """
    folders: dict[str, str] = {}
    for path in sys.path:
        with suppress(OSError):  # not a folder
            for name in os.listdir(path or "."):
                stem, _, kind = name.rpartition(".")
                if kind in ("dist-info", "egg-info"):
                    key = re.sub(r"[-_.]+", "-", stem.partition("-")[0]).lower()
                    folders.setdefault(key, os.path.join(path, name))
    return folders.values()


def read_entry_points(folder: str) -> dict[str, dict[str, str]]:
    """Return the entry points of a distribution, by group and name.

    Raises:
        ValueError: the file is damaged.
    """
    groups: dict[str, dict[str, str]] = {}
    try:
        with open(os.path.join(folder, "entry_points.txt"), encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return groups
    group: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("["):
            group = groups.setdefault(line.strip("[]"), {})
        elif not line.startswith("#"):
            name, separator, value = line.partition("=")
            if not separator:
                raise ValueError(f"a line without =: {line!r:.80}")
            group[name.strip()] = value.strip()
    return groups


def read_name_and_version(folder: str) -> tuple[str, str]:
    """Return a distribution's name and version; "unknown" and "" if its metadata is damaged."""
    fields: dict[str, str] = {}
    for file in ("METADATA", "PKG-INFO"):
        with suppress(OSError, ValueError), open(os.path.join(folder, file), encoding="utf-8") as f:
            for line in takewhile(str.strip, f):
                key, _, value = line.rstrip().partition(": ")
                fields.setdefault(key, value)
    return fields.get("Name", "unknown"), fields.get("Version", "")


def skip_unreadable_entry_points() -> None:
    """Make importlib.metadata skip damaged entry points.

    pydantic and torch read all entry points on import, and would fail.
    """
    from importlib import metadata

    def read_readable(**chosen: Any) -> Any:
        readable: list[metadata.EntryPoint] = []
        for distribution in metadata.distributions():
            with suppress(Exception):
                readable += distribution.entry_points
        return metadata.EntryPoints(readable).select(**chosen)

    vars(metadata)["entry_points"] = read_readable


def load_entry_point(module: str) -> object:
    """Import the object that an entry point names: ``package.module:name``, or a module."""
    path, _, attributes = module.partition("[")[0].partition(":")
    return reduce(getattr, filter(None, attributes.strip().split(".")), import_module(path.strip()))
