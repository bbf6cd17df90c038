"""Find the line of a plugin's code that a failed check points to."""

from __future__ import annotations

import inspect
import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.import_strings import ImportString
from tunesmith.testing.checks import CheckKind, Subject

METHODS = {
    "data loader": "load",
    "splitter": "split",
    "technique": "train",
    "evaluator": "measure",
    "baseline": "variants",
    "reporter": "report",
}
"""The method that most checks of a component test, by kind of component."""


def locate_fault(subject: Subject, kind: CheckKind, error: Exception) -> str:
    """Return ``file:line`` where the plugin raised, or else where the checked object is defined.

    The result is "" if neither is known.
    """
    folder = _plugin_folder(subject)
    raised: BaseException | None = error
    while raised is not None and folder is not None:
        for frame in reversed(traceback.extract_tb(raised.__traceback__)):
            if Path(frame.filename).is_relative_to(folder):
                return f"{_shorten(frame.filename)}:{frame.lineno}"
        raised = raised.__context__  # a check may raise while handling the plugin's exception
    for candidate in _definitions(subject, kind):
        with suppress(TypeError, OSError):
            file = inspect.getsourcefile(inspect.unwrap(candidate))
            line = inspect.getsourcelines(inspect.unwrap(candidate))[1]
            return f"{_shorten(file or '')}:{line or 1}"
    return ""


def _plugin_folder(subject: Subject) -> Path | None:
    """Return the folder of a plugin that is a package, or the file of a module; None if unknown."""
    file = getattr(subject.module, "__file__", None)
    if file is None:
        return None
    path = Path(file)
    return path.parent if path.name == "__init__.py" else path


def _definitions(subject: Subject, kind: CheckKind) -> list[Any]:
    """Return the objects that a check of this kind is about, the most precise first."""
    offer = subject.offer
    found: list[Any] = []
    if offer is not None:
        if (method := METHODS.get(kind)) is not None and offer.kind != "reporter":
            with suppress(Exception):  # building the component may have failed
                found.append(getattr(type(subject.build()), method))
        names = ("config", "build", "load") if kind == "offer" else ("build", "load", "config")
        found += [_imported(getattr(offer, name)) for name in names if hasattr(offer, name)]
    return [*found, subject.module]


def _imported(value: Any) -> Any:
    """Return the object that an import string names, if it exists; otherwise the value."""
    if isinstance(value, ImportString):
        with suppress(Exception):
            return getattr(value.load(), "callback", value.load())
    return value


def _shorten(file: str) -> str:
    """Return the path relative to the current folder if it is inside, otherwise unchanged."""
    path = os.path.relpath(file)
    return file if path.startswith("..") else path
