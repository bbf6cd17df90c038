"""tunesmith: adapt a pre-trained language model to your data, and measure whether it was worth it.

The package imports nothing heavy. The names below are imported when they are first used, so that
``tunesmith --help`` stays fast and a plugin can import the contracts alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith._version import __version__

if TYPE_CHECKING:
    from tunesmith.api import read_report, resume, run
    from tunesmith.errors import TunesmithError
    from tunesmith.hookspecs import hookimpl

__all__ = ["TunesmithError", "__version__", "hookimpl", "read_report", "resume", "run"]

_MODULES = {
    "TunesmithError": "errors",
    "hookimpl": "hookspecs",
    "read_report": "api",
    "resume": "api",
    "run": "api",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = vars(import_module(f"{__name__}.{module}"))[name]
    globals()[name] = value
    return value
